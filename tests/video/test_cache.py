"""The frame cache: the same frames to the last bit, a bounded folder, and never a reason for a run to stop."""

import multiprocessing
import os
import random
import shutil
import time

import numpy as np
import pytest

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.video import VideoLimits, cache, read_video, reader
from llava_ego2exo.video.cache import CacheStats, FrameCache, ReaderSettings, format_stats
from tests.videos import render_clip

pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        render_clip(folder / f"{number}.mp4", "red", "left", frames=16, rate=4, seed=number)
    return [str(folder / f"{number}.mp4") for number in range(4)]


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded, in order."""
    paths, original = [], reader.read_video
    monkeypatch.setattr(reader, "read_video", lambda path, *rest: paths.append(path) or original(path, *rest))
    return paths


def same(first, second):
    assert first.frames.dtype == second.frames.dtype == np.uint8 and np.array_equal(first.frames, second.frames)
    assert first.times == second.times and first.duration == second.duration
    assert first.indices == second.indices and first.rate == second.rate
    assert second.frames.flags.writeable


def held(folder):
    return sum(file.stat().st_size for file in folder.glob("*.npz"))


def test_cached_frames_are_the_decoded_ones(clips, decoded, tmp_path, real_videos):
    for path in (clips[0], str(real_videos / "flipping_a_pancake.mkv")):
        for sampling in ({}, {"frames_upbound": 4, "force_sample": True}, {"start_s": 0.5, "end_s": 2.0}):
            plain, first, second = read_video(path, **sampling), FrameCache(tmp_path, 1), FrameCache(tmp_path, 1)
            same(plain, first(path, **sampling))
            same(plain, second(path, **sampling))
            assert first.stats == CacheStats(0, 1, 0, 0) and second.stats == CacheStats(1, 0, 0, 0)
    assert len(decoded) == 6


def test_a_changed_file_or_another_limit_is_another_clip(clips, decoded, tmp_path):
    film, read = tmp_path / "film.mp4", FrameCache(tmp_path / "cache", 1)
    shutil.copy(clips[0], film)
    (tmp_path / "link.mp4").symlink_to(film)
    first = read(str(film))
    same(first, read(str(tmp_path / "link.mp4")))
    assert len(decoded) == 1
    shutil.copy(clips[1], film)
    os.utime(film, ns=(0, 7))
    assert not np.array_equal(first.frames, read(str(film)).frames)
    with pytest.raises(Ego2ExoError, match="megapixels"):
        FrameCache(tmp_path / "cache", 1, VideoLimits(video_max_megapixels=0.001))(str(film))


def test_damaged_and_foreign_files_are_misses(clips, tmp_path):
    plain = read_video(clips[0], frames_upbound=4)
    FrameCache(tmp_path, 1)(clips[0], frames_upbound=4)
    (file,) = tmp_path.glob("*.npz")
    whole, draw = file.read_bytes(), random.Random(3)
    damaged = [b"", b"no archive", whole[: len(whole) // 2], whole[:-1]]
    for place in (*range(0, 400, 40), *(draw.randrange(len(whole)) for _ in range(10))):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
    for content in damaged:
        file.write_bytes(content)
        read = FrameCache(tmp_path, 1)
        same(plain, read(clips[0], frames_upbound=4))
        # Some bits of an archive, such as its dates, change nothing.
        assert file.read_bytes() == whole or read.stats.hits == 1


def test_the_least_recently_used_goes_first_and_foreign_files_stay(clips, tmp_path):
    foreign = tmp_path / "notes.npz"
    foreign.write_bytes(b"mine" * 100_000)
    size = read_video(clips[0]).frames.nbytes
    read = FrameCache(tmp_path, 3.5 * size / 1e9)
    for path in (*clips[:3], clips[0], clips[3]):  # the first is used again: the second is the oldest
        read(path)
        time.sleep(0.01)
    assert held(tmp_path) - foreign.stat().st_size <= 3.5 * size and read.stats.removed == 1
    read(clips[0])
    assert read.stats.misses == 4
    read(clips[1])
    assert read.stats.misses == 5 and foreign.exists()


def test_a_run_continues_without_room(clips, monkeypatch, capsys, tmp_path):
    """A clip above the maximum, a nearly full disk, and a folder that cannot be written."""
    same(read_video(clips[0]), FrameCache(tmp_path, 1e-6)(clips[0]))
    (tmp_path / "file").touch()
    read = FrameCache(tmp_path / "file", 1)
    for _ in range(2):
        same(read_video(clips[0]), read(clips[0]))
    assert read.stats.failed == 2 and "2 clip(s) could not be added" in format_stats([read.stats, None])[0]
    usage = type("Usage", (), {"free": 30_000_000, "total": 10**12})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _path: usage)
    same(read_video(clips[0]), FrameCache(tmp_path, 1)(clips[0]))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "cache at most 1000" in lines[0] and "30000000 bytes are free" in lines[2]
    assert not list(tmp_path.glob("*.npz"))


def _reads(read, paths, seed, wrong):
    draw, plain = random.Random(seed), {}
    for _ in range(20):
        path = draw.choice(paths)
        plain.setdefault(path, read_video(path).frames)
        wrong.value += not np.array_equal(read(path).frames, plain[path])


def test_many_processes(clips, tmp_path):
    """Four processes read, add and remove at once; the statistics are of all."""
    size, fork = read_video(clips[0]).frames.nbytes, multiprocessing.get_context("fork")
    read, wrong = FrameCache(tmp_path, 2.5 * size / 1e9), fork.Value("i", 0)
    processes = [fork.Process(target=_reads, args=(read, clips, seed, wrong)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4 and not wrong.value
    assert read.stats.hits + read.stats.misses == 80 and read.stats.hits > 10 and read.stats.removed > 0
    assert held(tmp_path) <= (2.5 + 4) * size


def test_wrong_settings(tmp_path):
    (tmp_path / "file").touch()
    for settings in (("x", 0), ("x", float("nan")), (str(tmp_path / "file"), 1)):
        with pytest.raises(Ego2ExoError, match="--frame-cache"):
            ReaderSettings(*settings)
    assert cache.cache_stats(ReaderSettings().reader()) is None and format_stats([None]) == []
