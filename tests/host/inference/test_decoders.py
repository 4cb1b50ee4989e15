"""A decoder that hangs or crashes: `teach`, `eval`, a question and training stop or go on, by name and in time."""

import dataclasses
import shutil
import time

import pytest

from llava_ego2exo.demo.ask import ask
from llava_ego2exo.distill.pairs.file import read_pairs
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.video import VideoLimits, reader
from llava_ego2exo.video.worker import WorkerPool

from ...decoders import failing_decoder
from ..training.distillation import PLAIN, distilling_samples, write_json
from .asking import error_of
from .evaluation import Setting as Evaluation
from .test_teach import Setting as Teaching

pytestmark = [pytest.mark.usefixtures("registered", "strange"), pytest.mark.fault]
TOLD = {"does-hang": "does not decode within 1 s", "does-crash": "crashes the decoder (exit code -11)"}


@pytest.fixture
def strange(monkeypatch):
    """Decoders that fail if a file's name says so."""
    pytest.importorskip("decord", reason="decord is not installed")
    failing_decoder(monkeypatch)
    with WorkerPool("av", "decord") as pool:
        monkeypatch.setattr(reader, "_POOL", pool)
        yield


def test_teach_answers_the_others(tmp_path, world, capsys, fault_table):
    setting = Teaching(tmp_path, world)
    pairs = read_pairs(setting.pairs)
    files = [shutil.copy(pair.ego, setting.videos / f"{fault}.mp4") for pair, fault in zip(pairs, TOLD, strict=False)]
    changed = [dataclasses.replace(pair, ego=str(file)) for pair, file in zip(pairs, files, strict=False)]
    setting.change(*changed, *pairs[2:])
    assert setting.teach(video_limit_s=1) == 1
    message = error_of(capsys)
    assert "2 clip(s) failed" in message and {a.segment for a in setting.answers()} == {"s2", "s3", "s4"}
    survived = sum(f"{fault}.mp4 {reason}" in message for fault, reason in TOLD.items())
    fault_table("decoder hangs or crashes in `teach`: the other clips are answered", len(TOLD), survived)


def test_eval_asks_about_the_others(tmp_path, world, capsys, fault_table):
    setting = Evaluation(tmp_path, world)
    for number, fault in enumerate(TOLD):
        shutil.copy(setting.videos / "t0_exo1.mp4", setting.videos / f"{fault}.mp4")
        for row in setting.rows[2 * number : 2 * number + 2]:
            row["video_filename"] = fault
    setting.write(setting.rows)
    assert setting.eval(video_limit_s=1) == 1
    message = error_of(capsys)
    assert "4 question(s) got no reply and count as wrong" in message
    failed = {row["error"] for row in setting.results() if row["state"] == "failed"}
    survived = sum(any(f"{fault}.mp4 {reason}" in error for error in failed) for fault, reason in TOLD.items())
    fault_table("decoder hangs or crashes in `eval`: the other questions are asked", len(TOLD), survived)


def test_a_question_about_a_video_that_hangs(world, tmp_path):
    file = shutil.copy(next(world.videos.glob("*.mp4")), tmp_path / "does-hang.mp4")
    with pytest.raises(Ego2ExoError, match="does-hang.mp4 does not decode within 1 s"):
        ask((None, None, None, None), str(file), "What moves?", "v1", limits=VideoLimits(1))


def test_training_stops_by_name_or_leaves_the_pair_out(world, train, tmp_path, capfd, fault_table):
    videos = shutil.copytree(world.videos, tmp_path / "videos")
    samples = distilling_samples(world, 4)
    for fault in TOLD:
        shutil.copy(videos / samples[1]["video"], videos / f"{fault}.mp4")

    def run(fault, **flags):
        data = write_json(tmp_path / f"{fault}.json", [{**samples[0], "video": f"{fault}.mp4"}, *samples[1:]])
        train(
            tmp_path / fault, data_path=data, video_folder=videos, num_train_epochs=1, ego2exo_video_limit_s=1,
            dataloader_num_workers=1, **{**PLAIN, **flags},
        )  # fmt: skip

    begun = time.monotonic()
    with pytest.raises(Ego2ExoError) as stopped:
        run("does-hang")
    named = f"does-hang.mp4 {TOLD['does-hang']}" in str(stopped.value)
    capfd.readouterr()
    run("does-crash", ego2exo_max_bad=1)
    left_out = f"does-crash.mp4 {TOLD['does-crash']}" in "".join(capfd.readouterr())
    assert time.monotonic() - begun < 60
    fault_table("decoder hangs or crashes in training: a named stop, or the pair is left out", 2, named + left_out)
