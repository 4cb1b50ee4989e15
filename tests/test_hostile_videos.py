"""Strange and hostile videos: each decodes properly or is a named failure, in time, whatever its decoder does."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.video import VideoLimits, read_video, reader, video_seconds
from llava_ego2exo.video.worker import Worker

from .decoders import FAULTS, strange_decoder

decord = pytest.importorskip("decord", reason="decord is not installed")
pytest.importorskip("av", reason="PyAV is not installed")

from .hostile import audio, bomb, encode, picture, two_hours  # noqa: E402

UNEVEN = [0, 100, 900, 1000, 1100, 3000, 3500, 3600]
DECODE = {
    "plain.mp4": {},
    "one frame.mp4": {"frames": 1},
    "10 bit.mp4": {"pix_fmt": "yuv420p10le"},
    "10 bit hevc.mp4": {"pix_fmt": "yuv420p10le", "codec": "libx265", "x265-params": "log-level=none"},
    "4 4 4.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p"},
    "odd size.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "size": (37, 61)},
    "flat.mp4": {"size": (16, 640)},
    "changing rate.mp4": {"times": UNEVEN},
    "changing rate.mkv": {"times": UNEVEN},
    "phone left.mp4": {"rotation": 90},
    "phone right.mov": {"rotation": -90},
    "upside down.mp4": {"rotation": 180},
    "rotated.mkv": {"rotation": 90},
}  # fmt: skip
TURNS = {"phone left.mp4": 1, "phone right.mov": -1, "upside down.mp4": 2}


@pytest.mark.fault
def test_strange_videos_decode_as_llava_next_reads_them(tmp_path, fault_table):
    read_as_host = _host_reader()
    right = 0
    for name, settings in DECODE.items():
        path = str(encode(tmp_path / name, **settings))
        for most in (0, 3):
            ours = read_video(path, frames_upbound=most)
            frames, duration = read_as_host(path, most)
            assert np.array_equal(ours.frames, frames) and ours.duration == duration, name
        size = settings.get("size", (64, 96))
        # Upright, as players show it; decord and LLaVA-NeXT with it know no rotation in Matroska.
        shown = np.rot90(picture(size, 0), TURNS.get(name, 0))
        right += ours.frames[0].shape == shown.shape and bool(np.abs(ours.frames[0].astype(int) - shown).mean() < 5)
    fault_table("strange videos (10-bit, rotated, changing rate, one frame ...) decode properly", len(DECODE), right)


def _host_reader():
    """LLaVA-NeXT's reader where it is installed, else what it does."""
    utils = sys.modules.get("llava.utils") or _imported("llava.utils")
    if hasattr(utils, "process_video_with_decord"):

        def read(path, most):
            args = SimpleNamespace(video_fps=1, frames_upbound=most, force_sample=False)
            return utils.process_video_with_decord(path, args)[:2]
    else:

        def read(path, most):
            reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            total, rate = len(reader), reader.get_avg_fps()
            indices = list(range(0, total, round(rate)))
            if most and len(indices) > most:
                indices = np.linspace(0, total - 1, most, dtype=int).tolist()
            return reader.get_batch(indices).asnumpy(), total / rate

    return read


def _imported(name):
    try:
        return __import__(name, fromlist=["utils"])
    except ImportError:
        return None


def test_a_changing_rate_keeps_its_own_times_in_parts(tmp_path):
    path = str(encode(tmp_path / "v.mkv", times=UNEVEN))
    assert read_video(path, fps=4, start_s=0.9, end_s=3.0).indices == [2, 3, 4]


def test_a_clip_of_two_hours_is_quick(tmp_path):
    path = str(two_hours(tmp_path / "long.mp4"))
    begun = time.monotonic()
    clip = read_video(path, frames_upbound=8)
    took = time.monotonic() - begun
    assert clip.duration == pytest.approx(7200) and clip.frames.shape == (8, 64, 96, 3)
    assert [round(second) for second in clip.times] == [0, 1029, 2057, 3086, 4114, 5143, 6171, 7200]
    assert video_seconds(path) == pytest.approx(7200) and took < 20


def _named(folder, real_videos):
    """Each bad file with what its failure must say."""
    good = encode(folder / "good.mp4", frames=40, container={"movflags": "faststart"}).read_bytes()
    late = encode(folder / "late.mp4", frames=40).read_bytes()
    written = {
        "empty.mp4": (b"", "does not decode"),
        "text.mp4": (b"this is no video\n" * 20, "does not decode"),
        "page.mp4": (b"<!DOCTYPE html><html><body>404</body></html>", "does not decode"),
        "list.mp4": (b"ffconcat version 1.0\nfile good.mp4\n", "is a list of other files"),
        "playlist.mp4": (b"#EXTM3U\n#EXTINF:10,\ngood.mp4\n#EXT-X-ENDLIST\n", "does not decode"),
        "no index.mp4": (late[: len(late) // 2], "(holds no video stream|does not decode)"),
        "half.mp4": (good[: len(good) // 2], "does not decode"),
        "most.mp4": (good[: len(good) * 9 // 10], "does not decode"),
        "zeros.mp4": (good[: len(good) // 4] + bytes(len(good) * 3 // 4), "does not decode"),
    }
    for name, (content, reason) in written.items():
        (folder / name).write_bytes(content)
        yield folder / name, reason
    yield encode(folder / "1x1.mkv", (1, 1), codec="ffv1", pix_fmt="yuv444p"), "decord cannot read frames of width 1"
    yield encode(folder / "narrow.mp4", (64, 48)), "decord cannot read frames of width 48"
    yield encode(folder / "no frame.mkv", frames=0), "does not decode"
    yield encode(folder / "no frame.mp4", frames=0), "holds no video stream"
    yield audio(folder / "sound.mp4"), "holds no video stream"
    yield bomb(folder / "16k.avi", 16384), "tells no possible size of its frames"
    yield bomb(folder / "16k inside.avi", 16384, said=64), "does not decode"
    yield bomb(folder / "8k.avi", 8200), r"8200 x 8200 pixels \(67.2 megapixels\).*--video-max-megapixels"
    yield bomb(folder / "8k inside.avi", 8200, said=64), "8200 x 8200 pixels"
    yield encode(folder / "25 h.mkv", times=[13_000_000 * n for n in range(8)]), "lasts 25.3 h.*--video-max-hours"
    yield folder / "nothing.mp4", "is not there"
    yield folder, "is not there"
    if (real_videos / "corrupted.mp4").exists():
        yield real_videos / "corrupted.mp4", "does not decode"


@pytest.fixture
def no_skip_videos():
    from .conftest import REAL_VIDEOS

    return REAL_VIDEOS


@pytest.mark.fault
def test_broken_and_hostile_files_are_named(tmp_path, no_skip_videos, fault_table):
    tried, told = 0, 0
    for path, reason in _named(tmp_path, no_skip_videos):
        begun = time.monotonic()
        with pytest.raises(Ego2ExoError, match=f"{path}.*{reason}"):
            read_video(str(path), limits=VideoLimits(video_limit_s=10))
        tried, told = tried + 1, told + (time.monotonic() - begun < 12)
    fault_table("broken and hostile video files are named failures", tried, told)


def test_widths_that_decord_cannot_read(tmp_path):
    """They are listed in docs/data.md; another decord may have others."""
    refused = []
    for width in (*range(1, 34), 40, 47, 48, 49, 56, 64, 72, 80, 96, 120, 144):
        path = encode(tmp_path / "w.avi", (20, width), 2, codec="rawvideo", pix_fmt="bgr24")
        try:
            read_video(str(path))
        except Ego2ExoError as error:
            assert f"decord cannot read frames of width {width}" in str(error)
            refused.append(width)
    assert refused == [1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 72]


def test_bounds_move_with_their_flags(tmp_path):
    path = str(bomb(tmp_path / "8k.avi", 8200))
    assert video_seconds(path, VideoLimits(video_max_megapixels=70)) == pytest.approx(0.5)
    small = str(encode(tmp_path / "s.mp4"))
    for limits, reason in (
        (VideoLimits(video_max_megapixels=0.005), "has frames of 96 x 64 pixels .* up to 0.005 megapixels"),
        (VideoLimits(video_max_hours=1 / 3600), "lasts 0.000556 h"),
        (VideoLimits(video_max_gib=30_000 / 2**30), "would need 0.0 GiB for 2 frames of 96 x 64 pixels"),
    ):
        with pytest.raises(Ego2ExoError, match=reason):
            read_video(small, limits=limits)
    assert read_video(small, frames_upbound=1, limits=VideoLimits(video_max_gib=30_000 / 2**30)).frames.shape[0] == 1
    for wrong in (0, -1, float("nan"), float("inf"), "2", True):
        with pytest.raises(Ego2ExoError, match="--video-limit-s .in training --ego2exo_video_limit_s"):
            VideoLimits(video_limit_s=wrong)


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """Readers that fail as a file's name says, and one good file's bytes under every name."""
    monkeypatch.setattr(reader, "_READERS", reader.Pool("llava_ego2exo.video.frames"))
    strange_decoder(monkeypatch, tmp_path, "llava_ego2exo.video.frames")
    content = encode(tmp_path / "good.mp4", size=(64, 64)).read_bytes()
    for name in FAULTS:
        (tmp_path / f"{name}.mp4").write_bytes(content)
    yield tmp_path
    reader._READERS.stop()


TOLD = {
    "does-hang": "does not decode within 1 s",
    "does-hold": "does not decode within 1 s",
    "does-crash": r"crashes the decoder \(exit code -11\)",
    "does-abort": r"crashes the decoder \(exit code -6\)",
    "does-leave": r"crashes the decoder \(exit code 0\)",
    "does-eat": "Unable to allocate",
    "does-lie": "makes the decoder answer wrongly",
    "does-boast": "makes the decoder answer wrongly",
    "does-owe": "makes the decoder answer wrongly",
}


@pytest.mark.fault
def test_a_decoder_that_goes_wrong_is_a_named_failure(strange, fault_table):
    good, survived = read_video(str(strange / "good.mp4")), 0
    for name, reason in TOLD.items():
        begun = time.monotonic()
        with pytest.raises(Ego2ExoError, match=f"{name}.mp4 .*{reason}"):
            read_video(str(strange / f"{name}.mp4"), limits=VideoLimits(video_limit_s=1))
        in_time = time.monotonic() - begun < 8
        survived += in_time and np.array_equal(read_video(str(strange / "good.mp4")).frames, good.frames)
    fault_table("decoder hangs, crashes, lies or eats memory: the next file is read", len(FAULTS), survived)


@pytest.mark.fault
def test_mutated_videos_for_a_short_time(no_skip_videos, fault_table):
    """`scripts/fuzz_videos.py` in a process of its own, with the mutations of a seed; longer by hand."""
    script = Path(__file__).parents[1] / "scripts" / "fuzz_videos.py"
    flags = ["--count", "300", "--seconds", "8", "--seed", "1", "--workers", "2", "--json"]
    real = ["--videos", str(no_skip_videos)] if no_skip_videos.is_dir() else []
    done = subprocess.run([sys.executable, str(script), *flags, *real], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert done.returncode == bool(found["lost"])
    decoded, refused = (found["reader"][outcome] for outcome in ("decoded", "refused by name"))
    assert found["mutations"] == sum(found["reader"].values()) == sum(found["probe"].values())
    assert decoded > 5 and refused > 5, "mutations that all fail, or none, try little"
    tried = 2 * found["mutations"]
    fault_table("mutated videos through reader and probe", tried, tried - len(found["lost"]))


def test_threads_share_processes_and_each_has_one(strange):
    errors, paths = [], [str(strange / f"{name}.mp4") for name in ("good", "does-hang", "good", "does-crash")]

    def read(path):
        for _ in range(3):
            try:
                read_video(path, limits=VideoLimits(video_limit_s=0.5))
            except Ego2ExoError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=read, args=[path]) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 6 and not [error for error in errors if "good" in error]
    assert len(reader._READERS._idle) <= len(paths)


def test_a_reader_outlives_signals_and_changes_of_folder(strange, monkeypatch):
    monkeypatch.chdir(strange)
    read_video("good.mp4")
    process = reader._READERS._idle[0]._process
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        process.send_signal(sent)
    (strange / "deep").mkdir()
    monkeypatch.chdir(strange / "deep")
    assert read_video("../good.mp4").frames.shape[0] == 2 and reader._READERS._idle[0]._process is process
    process.kill()
    process.wait()
    assert read_video("../good.mp4").frames.shape[0] == 2, "one that was killed is replaced"


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "print('Hello')", "print('{}')", "print('[1]')"])
def test_a_process_that_does_not_start_is_no_fault_of_the_video(tmp_path, monkeypatch, program):
    path = str(encode(tmp_path / "good.mp4"))
    monkeypatch.setattr(reader, "_READERS", reader.Pool("llava_ego2exo.video.frames"))
    monkeypatch.setattr(Worker, "_command", lambda _self: [sys.executable, "-c", program])
    reason = "exit code 3" if "3" in program else "answers b"
    with pytest.raises(Ego2ExoError, match=f"^the process that decodes videos does not start.*{reason}"):
        read_video(path)


def test_names_of_every_kind(tmp_path):
    for name in ('a "quoted"\nname.mp4', "кухня 厨房.mp4", "--video-limit-s.mp4", "file:x.mp4", "%03d.mp4"):
        assert read_video(str(encode(tmp_path / "a.mp4").rename(tmp_path / name))).frames.shape[0] == 2
    name = os.fsencode(tmp_path) + b"/\xff.mp4"
    encode(tmp_path / "a.mp4").rename(os.fsdecode(name))
    with pytest.raises(Ego2ExoError, match="does not decode"):  # ffmpeg's wrappers take text alone
        read_video(os.fsdecode(name))


class _Clips:
    """A dataset whose items are read in a data loader's worker."""

    def __init__(self, paths, limits):
        self.paths, self.limits = paths, limits

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            return int(read_video(self.paths[index], limits=self.limits).frames.sum())
        except Ego2ExoError as error:
            return str(error)


@pytest.mark.fault
def test_in_a_data_loaders_workers(strange, fault_table):
    data = pytest.importorskip("torch.utils.data", reason="no torch")
    good = str(strange / "good.mp4")
    expected = int(read_video(good).frames.sum())  # the workers inherit a reader, and must not use it
    faults = ("does-hang", "does-crash", "does-abort")
    paths = [good, *(part for name in faults for part in (str(strange / f"{name}.mp4"), good)), good]
    loader = data.DataLoader(_Clips(paths, VideoLimits(1)), batch_size=None, num_workers=2)
    found = list(loader)
    assert [value == expected for value in found] == [path == good for path in paths]
    told = {name: found[paths.index(str(strange / f"{name}.mp4"))] for name in faults}
    survived = sum(bool(re.search(TOLD[name], text)) for name, text in told.items())
    assert int(read_video(good).frames.sum()) == expected
    fault_table("decoder hangs or crashes in a data loader's worker", len(faults), survived)


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["does-hang", "does-hold"])
def test_readers_end_with_a_parent_that_is_killed(strange, fault, fault_table):
    program = (
        "import sys, threading, time\n"
        "from llava_ego2exo.video import reader\n"
        "from llava_ego2exo.video.worker import Worker\n"
        f"Worker._command = lambda self: [sys.executable, {str(strange / 'strange_decoder.py')!r}]\n"
        "limits = reader.VideoLimits(video_limit_s=1.5)\n"
        f"reader.read_video({str(strange / 'good.mp4')!r}, limits=limits)\n"
        "worker = reader._READERS._idle[0]\n"
        f"strange = lambda: reader.read_video({str(strange / fault)!r} + '.mp4', limits=limits)\n"
        "threading.Thread(target=strange).start()\n"
        "time.sleep(0.2)\n"
        "print(worker._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as parent:
        reader = int(parent.stdout.readline())
        parent.kill()
    # One that holds Python's lock ends by the alarm, a few seconds after its limit.
    deadline = time.monotonic() + 12
    while _runs(reader) and time.monotonic() < deadline:
        time.sleep(0.1)
    fault_table("a killed run leaves no decoder behind", 1, not _runs(reader))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
