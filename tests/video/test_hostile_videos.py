"""Strange and hostile videos: each decodes correctly or fails by name and in time, whatever its decoder does."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.video import VideoLimits, read_video, reader, video_seconds, worker
from llava_ego2exo.video.worker import WorkerPool

from ..decoders import failing_decoder

pytest.importorskip("av", reason="PyAV is not installed")

from .hostile import audio, bomb, encode, picture  # noqa: E402

UNEVEN = [0, 100, 900, 1000, 1100, 3000, 3500, 3600]
DECODE = {
    "one frame.mp4": {"frames": 1},
    "10 bit hevc.mp4": {"pix_fmt": "yuv420p10le", "codec": "libx265", "x265-params": "log-level=none"},
    "narrow.mp4": {"size": (64, 48)},
    "odd size.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "size": (37, 61)},
    "changing rate.mkv": {"times": UNEVEN},
    "phone left.mp4": {"rotation": 90},
    "кухня 厨房 'q' %03d.mp4": {},
}


def test_strange_videos_decode(tmp_path):
    """Upright; that LLaVA-NeXT reads the same is in test_reader."""
    for name, settings in DECODE.items():
        clip = read_video(str(encode(tmp_path / name, **settings)))
        shown = np.rot90(picture(settings.get("size", (64, 96)), 0), settings.get("rotation", 0) // 90)
        assert clip.frames[0].shape == shown.shape and np.abs(clip.frames[0].astype(int) - shown).mean() < 5, name
    assert read_video(str(tmp_path / "changing rate.mkv"), fps=4, start_s=0.9, end_s=3.0).indices == [2, 4]


def _broken(folder):
    """Each bad file with what its error must say."""
    good = encode(folder / "good.mp4", frames=40, container={"movflags": "faststart"}).read_bytes()
    written = {
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"a page\n" * 99, "is no video file that ffmpeg knows"),
        "no index.mp4": (encode(folder / "x.mp4").read_bytes()[:1000], "or is cut off"),
        "list.mp4": (b"ffconcat version 1.0\nfile good.mp4\n", "is a list of other files"),
        "half.mp4": (good[: len(good) // 2], "holds 2 frames of the 40 in its header"),
    }
    for name, (content, reason) in written.items():
        (folder / name).write_bytes(content)
        yield folder / name, reason
    yield encode(folder / "no frame.mkv", frames=0), "does not decode"
    yield audio(folder / "sound.mp4"), "holds no video stream"
    yield bomb(folder / "16k.avi", 16384), "has no valid frame size"
    yield bomb(folder / "16k inside.avi", 16384, said=64), "does not decode"
    yield bomb(folder / "8k.avi", 8200), r"8200 x 8200 pixels \(67.2 megapixels\).*--video-max-megapixels"
    yield encode(folder / "25 h.mkv", times=[13_000_000 * n for n in range(8)]), "lasts 28.9 h.*--video-max-hours"
    yield folder / "nothing.mp4", "is not there"
    yield folder, "is a folder"


def test_broken_and_hostile_files_are_named(tmp_path):
    for path, reason in _broken(tmp_path):
        with pytest.raises(Ego2ExoError, match=f"{path}.*{reason}"):
            read_video(str(path), limits=VideoLimits(video_limit_s=10))


def test_limits(tmp_path):
    assert video_seconds(str(bomb(tmp_path / "8k.avi", 8200)), VideoLimits(video_max_megapixels=70)) == 0.5
    small, limit = str(encode(tmp_path / "s.mp4")), VideoLimits(video_max_gib=30_000 / 2**30)
    with pytest.raises(Ego2ExoError, match="would need 0.0 GiB for 2 frames of 96 x 64 pixels"):
        read_video(small, limits=limit)
    assert read_video(small, frames_upbound=1, limits=limit).frames.shape[0] == 1
    for wrong in (0, float("nan"), "2"):
        with pytest.raises(Ego2ExoError, match="--video-limit-s .in training --ego2exo_video_limit_s"):
            VideoLimits(video_limit_s=wrong)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """The reader's own pool, whose decoders fail if a file's name says so; one good file under every name."""
    failing_decoder(monkeypatch)
    content = encode(tmp_path / "good.mp4", size=(64, 64)).read_bytes()
    for name in ("does-hang", "does-crash", "does-eat"):
        (tmp_path / f"{name}.mp4").write_bytes(content)
    with WorkerPool("av") as pool:
        monkeypatch.setattr(reader, "_POOL", pool)
        yield pool


def test_a_decoder_that_hangs_crashes_or_eats_memory_is_named(pool, tmp_path):
    """In threads, each with a worker of its own, and the next file is read."""
    good = str(tmp_path / "good.mp4")
    expected = read_video(good).frames

    def error_of(name):
        with pytest.raises(Ego2ExoError) as caught:
            read_video(str(tmp_path / f"{name}.mp4"), limits=VideoLimits(video_limit_s=0.5))
        assert np.array_equal(read_video(good).frames, expected)
        return str(caught.value)

    failures = {"does-hang": "within 0.5 s", "does-crash": "exit code -11", "does-eat": "Unable to allocate"}
    with ThreadPoolExecutor(len(failures)) as threads:
        errors = list(threads.map(error_of, failures))
    assert all(text in error and name in error for (name, text), error in zip(failures.items(), errors, strict=True))


def test_a_worker_survives_signals_and_is_replaced_when_killed(pool, tmp_path, monkeypatch):
    read_video(str(tmp_path / "good.mp4"))
    process = pool._idle[0]._process
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        process.send_signal(sent)
    monkeypatch.chdir(tmp_path)
    assert len(read_video("good.mp4").times) == 2 and pool._idle[0]._process is process
    process.kill()
    process.wait()
    assert len(read_video("good.mp4").times) == 2


def test_workers_end_before_the_program(tmp_path):
    file = encode(tmp_path / "good.mp4", size=(64, 64))
    program = f"from llava_ego2exo.video import read_video; print(len(read_video({str(file)!r}).times))"
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", program], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_worker_that_does_not_start_is_not_the_videos_fault(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_POOL", WorkerPool("no_such_decoder"))
    for reason in ("ModuleNotFoundError", "exit code 3"):
        with pytest.raises(Ego2ExoError, match=f"^the process that decodes videos does not start: {reason}"):
            read_video(str(tmp_path / "good.mp4"))
        monkeypatch.setattr(worker, "_PROGRAM", "raise SystemExit(3)")


def _sum(path):
    try:
        return int(read_video(path, limits=VideoLimits(0.5)).frames.sum())
    except Ego2ExoError as error:
        return str(error)


def test_in_a_data_loaders_workers(pool, tmp_path):
    data = pytest.importorskip("torch.utils.data", reason="no torch")
    good = str(tmp_path / "good.mp4")
    expected = int(read_video(good).frames.sum())  # the workers inherit this process's decoder, and must not use it
    paths = [good, str(tmp_path / "does-crash.mp4"), good, good]
    found = list(data.DataLoader(paths, batch_size=1, num_workers=2, collate_fn=lambda batch: _sum(batch[0])))
    assert [found[0], *found[2:]] == [expected] * 3 and "crashes the decoder" in found[1]
    assert int(read_video(good).frames.sum()) == expected


def test_workers_end_with_a_killed_run(tmp_path):
    encode(tmp_path / "good.mp4")
    program = (
        "import time; from llava_ego2exo.video import reader\n"
        "reader.read_video('good.mp4'); print(reader._POOL._idle[0]._process.pid, flush=True); time.sleep(60)"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    run = [sys.executable, "-c", program]
    with subprocess.Popen(run, stdout=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
