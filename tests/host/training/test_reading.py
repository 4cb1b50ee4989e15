"""How a run with ego tokens reads its clips: LLaVA's own frames and times, once each, shared with teach and eval."""

import itertools
import shutil
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.training.dataset import get_reader, llava_times, set_reader, wrap_reader
from llava_ego2exo.video import Clip, read_video, reader
from llava_ego2exo.video.cache import FrameCache
from tests.videos import render_clip

from ..conftest import losses
from ..models import is_next
from .distillation import PLAIN, distilling_samples, write_json

next_only = pytest.mark.skipif(not is_next(), reason="llava-torch has no video reader")
WAYS = [
    {"video_fps": fps, "frames_upbound": most, "force_sample": force}
    for fps, most in ((1, 0), (1, 3), (2, 6))
    for force in (False, True)
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Clips of several rates, the last one's no whole number."""
    folder, paths = tmp_path_factory.mktemp("drawn"), []
    for rate, frames in ((30, 61), (3, 40), (Fraction(30000, 1001), 40)):
        paths.append(str(folder / f"{len(paths)}.mp4"))
        render_clip(paths[-1], "red", "left", frames=frames, rate=rate)
    return paths


@next_only
@pytest.mark.parametrize("real", [False, True])
def test_frames_and_times_are_llavas_own(real, drawn, request, tmp_path):
    pytest.importorskip("decord", reason="decord is not installed")
    from llava.utils import process_video_with_decord

    videos = request.getfixturevalue("real_videos") if real else None
    paths = [str(videos / name) for name in ("flipping_a_pancake.mkv", "xU25MMA2N4aVtYay.mp4")] if real else drawn
    for path, way in itertools.product(paths, WAYS[2:4] if real else WAYS):
        args = SimpleNamespace(**way)
        theirs = process_video_with_decord(path, args)
        for read in (read_video, FrameCache(tmp_path, 1), FrameCache(tmp_path, 1)):
            args.ego2exo_reader = read
            ours = wrap_reader(process_video_with_decord)(path, args)
            assert ours[0].dtype == theirs[0].dtype and np.array_equal(ours[0], theirs[0]), (path, way)
            assert ours[1:] == theirs[1:], (path, way)


def test_times_of_a_changing_rate_are_the_real_ones():
    args = SimpleNamespace(video_fps=1, frames_upbound=0, force_sample=False)
    changing, steady = ([0.0, 0.9, 3.0], [0, 2, 5]), ([0.0, 2.0, 4.0], [0, 5, 10])
    assert [llava_times(Clip(None, times, 6.0, indices, 2.5), args) for times, indices in (changing, steady)] == [
        "0.00s,0.90s,3.00s",
        "0.00s,2.50s,5.00s",  # LLaVA-NeXT's frame numbers over its step
    ]


@next_only
def test_without_ego_tokens_llavas_own_reader_reads(registered, drawn, monkeypatch):
    pytest.importorskip("decord", reason="decord is not installed")
    from llava.train import train as host

    monkeypatch.setattr(reader, "read_video", lambda *_a, **_k: pytest.fail("our reader was called"))
    args = SimpleNamespace(video_fps=1, frames_upbound=4, force_sample=False)
    set_reader(args)
    assert get_reader(args) is None
    assert host.process_video_with_decord(drawn[0], args)[3] == 3  # of its 2 seconds
    assert host.process_video_with_decord.__wrapped__ is not host.process_video_with_decord


@pytest.fixture
def distil(world, train, tmp_path):
    """A run on pairs with a KL: each sample needs its exo and its ego clip."""
    data = write_json(tmp_path / "pairs.json", distilling_samples(world, 8))

    def run(name="s", **flags):
        torch.manual_seed(0)
        kl = {"ego2exo_kd_weight": 0.5, "num_train_epochs": 2, "per_device_train_batch_size": 2}
        return train(tmp_path / name, **{"data_path": data, **PLAIN, **kl, **flags})

    return run


@pytest.fixture
def read(monkeypatch, tmp_path):
    """The paths that were decoded, by whichever process."""
    log, original = tmp_path / "read.txt", reader.read_video

    def reading(path, *rest, **named):
        with log.open("a") as file:
            file.write(f"{path}\n")
        return original(path, *rest, **named)

    monkeypatch.setattr(reader, "read_video", reading)
    return lambda: log.read_text().splitlines() if log.exists() else []


def test_training_takes_frames_that_teach_has_decoded(distil, read, world, tmp_path, capfd):
    """Four clips, each the exo view of two samples and the ego view of two, in two epochs, read by two processes."""
    from llava_ego2exo import cli
    from llava_ego2exo.distill.pairs.file import write_pairs
    from llava_ego2exo.distill.pairs.pair import Pair

    folder = tmp_path / "set"
    shutil.copytree(world.videos, folder)
    videos = sorted(map(str, folder.glob("*.mp4")))
    pairs = write_pairs(folder / "pairs.jsonl", [Pair(f"s{n}", path, {"exo1": path}) for n, path in enumerate(videos)])
    common = ["--frame-cache", str(tmp_path / "cache"), "--frames-upbound", "4"]
    model = ["--model", str(world.base()), "--template", world.template("llama"), "--max-new-tokens", "2"]
    assert cli.main(["teach", "--pairs", str(pairs), "--out", str(tmp_path / "out"), *model, *common]) == 0
    assert sorted(read()) == videos
    flags = {"video_folder": folder, "add_time_instruction": True}
    cached = distil("cached", **flags, ego2exo_frame_cache=tmp_path / "cache", dataloader_num_workers=2)
    assert sorted(read()) == videos and "frame cache: 32 clip(s)" in capfd.readouterr().out
    plain = distil("plain", **flags)
    assert len(read()) == 4 + 8 * 2 * 2 and losses(plain) == losses(cached)


def test_a_failure_in_a_worker_names_both_files(distil, world, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(world.videos, videos)
    broken = videos / "01_green_right.mp4"
    broken.write_bytes(b"\0\0\0 ftypisom" + bytes(3000))
    one = [distilling_samples(world)[0]]  # its ego view is the broken one
    flags = {"data_path": write_json(tmp_path / "one.json", one), "video_folder": videos, "num_train_epochs": 1}
    with pytest.raises(Ego2ExoError) as caught:
        distil(dataloader_num_workers=1, **flags)
    text = str(caught.value)
    assert f"sample 0 (id '0') cannot be read: video {videos}/00_red_left.mp4, ego_video {broken}: " in text
    assert f"video {broken} is no video file" in text and "Traceback" not in text and "--ego2exo_max_bad N" in text


WRONG = [
    ({"ego2exo_max_bad": -1}, "--ego2exo_max_bad -1"),
    ({"ego2exo_frame_cache_gb": 5}, "--ego2exo_frame_cache_gb without --ego2exo_frame_cache"),
    ({"ego2exo_frame_cache": __file__}, "--ego2exo_frame_cache"),
    ({"ego2exo_frame_cache": __file__, "ego2exo": None, "ego2exo_num_tokens": None}, "--ego2exo_frame_cache"),
    ({"ego2exo_max_bad": 1, "label_smoothing_factor": 0.1}, "--label_smoothing_factor 0.1"),
    ({"ego2exo_max_bad": 3, "ego2exo": None, "ego2exo_num_tokens": None}, "without --ego2exo True"),
]


def test_wrong_flags_and_a_missing_decoder(train, no_weights, monkeypatch, tmp_path):
    for flags, given in WRONG:
        with pytest.raises(Ego2ExoError) as caught:
            train(tmp_path / "out", **flags)
        assert given in caught.value.given and not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(Ego2ExoError, match="av is not installed"):
        train(tmp_path / "s")
