"""Decoded frames on disk: the same to the last bit, within a bound, and never in the way of a run."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.video import cache as frame_cache
from llava_ego2exo.video import read_video, reader
from llava_ego2exo.video.bounded_folder import BoundedFolder
from llava_ego2exo.video.cache import Counts, FrameCache
from tests.videos import render_clip

pytest.importorskip("decord", reason="decord is not installed")

ASKED = [
    {},
    {"frames_upbound": 4},
    {"frames_upbound": 4, "force_sample": True},
    {"fps": 2},
    {"start_s": 0.5, "end_s": 2.0, "frames_upbound": 3},
]


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
    monkeypatch.setattr(
        reader, "read_video", lambda path, *rest, **named: paths.append(path) or original(path, *rest, **named)
    )
    return paths


def same(first, second):
    assert first.frames.dtype == second.frames.dtype == np.uint8 and np.array_equal(first.frames, second.frames)
    for name in ("times", "duration", "indices", "rate"):
        assert getattr(first, name) == getattr(second, name), name
    assert second.frames.flags.writeable


def entries(folder, kind="frames"):
    return sorted(folder.glob(f"??/*.{kind}"))


@pytest.mark.parametrize("asked", ASKED)
def test_what_was_kept_is_what_is_decoded(asked, clips, decoded, tmp_path):
    plain = read_video(clips[0], **asked)
    cold, warm = FrameCache(tmp_path, 1), FrameCache(tmp_path, 1)
    same(plain, cold(clips[0], **asked))
    same(plain, warm(clips[0], **asked))
    assert len(decoded) == 1
    size = plain.frames.nbytes
    assert cold.counts == Counts(misses=1, written=size) and warm.counts == Counts(hits=1, read=size)
    assert f"1 clip(s) from it ({size / 1e6:.1f} MB), 0 decoded" in warm.counts.told()


def test_real_videos(real_videos, decoded, tmp_path):
    for name in ("flipping_a_pancake.mkv", "xU25MMA2N4aVtYay.mp4"):
        for asked in ASKED[:4]:
            path, cache = str(real_videos / name), FrameCache(tmp_path, 1)
            plain = read_video(path, **asked)
            same(plain, cache(path, **asked))
            same(plain, cache(path, **asked))
            assert (cache.counts.hits, cache.counts.misses) == (1, 1)


def test_frames_asked_for_in_two_ways_lie_there_once(clips, tmp_path):
    cache = FrameCache(tmp_path, 1)
    first, second = cache(clips[0], frames_upbound=4, force_sample=True), cache(clips[0], frames_upbound=4)
    assert first.indices == [0, 5, 10, 15] and second.indices == [0, 4, 8, 12]
    assert cache(clips[0]).indices == second.indices
    assert len(entries(tmp_path)) == 2 and len(entries(tmp_path, "clip")) == 3


def test_by_the_file_itself(clips, decoded, tmp_path):
    film, cache = tmp_path / "film.mp4", FrameCache(tmp_path / "cache", 1)
    film.write_bytes(open(clips[0], "rb").read())
    (tmp_path / "link.mp4").symlink_to(film)
    first = cache(str(film))
    same(first, cache(str(tmp_path / "link.mp4")))
    assert len(decoded) == 1
    film.write_bytes(open(clips[1], "rb").read())
    assert not np.array_equal(first.frames, cache(str(film)).frames) and len(decoded) == 2
    os.utime(film, ns=(0, 7))
    cache(str(film))
    assert len(decoded) == 3


def test_nothing_is_unpickled_and_nothing_else_is_touched(clips, tmp_path):
    (tmp_path / "ab").mkdir()
    foreign = [tmp_path / "notes.txt", tmp_path / "ab" / "data.frames", tmp_path / "ab" / f"{'0' * 31}g.clip"]
    for path in foreign:
        path.write_bytes(b"mine" * 1000)
    size = read_video(clips[0]).frames.nbytes
    cache = FrameCache(tmp_path, 1.5 * size / 1e9)
    for path in clips:
        cache(path)
    assert all(path.read_bytes() == b"mine" * 1000 for path in foreign) and cache.counts.removed > 0
    file = next(path for path in entries(tmp_path) if path not in foreign).read_bytes()
    assert json.loads(file.split(b"\n")[0])["shape"] == [4, 64, 64, 3] and b"numpy" not in file[:400]


@pytest.mark.fault
def test_damaged_entries_are_decoded_anew(clips, decoded, tmp_path, fault_table):
    plain, made = read_video(clips[0], frames_upbound=4), FrameCache(tmp_path, 1)
    made(clips[0], frames_upbound=4)
    other = FrameCache(tmp_path / "other", 1)
    other(clips[1], frames_upbound=4)
    draw, tried, survived = random.Random(3), 0, 0
    for file, foreign in zip(
        (*entries(tmp_path), *entries(tmp_path, "clip")),
        (*entries(tmp_path / "other"), *entries(tmp_path / "other", "clip")), strict=True,
    ):  # fmt: skip
        whole = file.read_bytes()
        head = whole.index(b"\n") + 1
        wrong = [b"", b"\n", b"{}\n", b"null\n", b"[" * 99999, whole + b"x", foreign.read_bytes()]
        wrong += [whole[: draw.randrange(len(whole))] for _ in range(30)]
        wrong += [
            _flipped(whole, place) for place in (*range(0, head, 9), *(draw.randrange(len(whole)) for _ in "x" * 30))
        ]
        for content in wrong:
            file.write_bytes(content)
            cache = FrameCache(tmp_path, 1)
            found = cache(clips[0], frames_upbound=4)
            tried += 1
            right = np.array_equal(found.frames, plain.frames) and found.times == plain.times
            survived += right and (content == whole or cache.counts.damaged == cache.counts.misses == 1)
            assert file.read_bytes() == whole
    fault_table("damaged or foreign entries of the frame cache: cut, flipped bits, another clip's", tried, survived)


def _flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


def test_the_least_recently_used_goes_first(clips, tmp_path):
    size = read_video(clips[0]).frames.nbytes
    cache = FrameCache(tmp_path, 3.5 * size / 1e9)
    for path in clips[:3]:
        cache(path)
        time.sleep(0.01)
    cache(clips[0])  # used again: now the second is the oldest
    cache(clips[3])
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 3.5 * size
    before = cache.counts
    cache(clips[0])
    cache(clips[3])
    assert cache.counts.hits == before.hits + 2
    cache(clips[1])
    assert cache.counts.misses == before.misses + 1


def test_a_smaller_bound_is_kept_later(clips, tmp_path):
    cache = FrameCache(tmp_path, 1)
    for path in clips:
        cache(path)
    size = read_video(clips[0]).frames.nbytes
    small = FrameCache(tmp_path, 2.5 * size / 1e9)
    small(clips[0], fps=2, frames_upbound=1)
    assert small.counts.removed > 0 and sum(size for _, size in small.files.sizes().values()) <= 2.5 * size


def test_a_clip_larger_than_the_bound(clips, capsys, tmp_path):
    cache = FrameCache(tmp_path, 1e-6)
    for _ in range(2):
        same(read_video(clips[0]), cache(clips[0]))
    assert cache.counts.unwritten == 2 and not entries(tmp_path)
    told = capsys.readouterr().err
    assert told.count("not added to the frame cache: it has ") == 1


def test_parts_of_killed_processes_go(tmp_path):
    folder = BoundedFolder(tmp_path, 10_000)
    old, new = (tmp_path / "ab" / f".{'a' * 32}.frames.{number}-7.part" for number in (1, 2))
    old.parent.mkdir()
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (0, 0))
    folder.sizes()
    assert not old.exists() and new.exists()


WRITER = """
import resource, sys
from llava_ego2exo.video.cache import FrameCache
from llava_ego2exo.video import read_video
read_video(sys.argv[2])  # the decoder's process starts without the limit
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # the system itself refuses to write more
cache = FrameCache(sys.argv[1], 1)
for path in sys.argv[2:]:
    print(cache(path).frames.sum())
print(cache.counts.unwritten, cache.counts.misses)
"""


@pytest.mark.fault
def test_a_disk_that_takes_no_more(clips, tmp_path, fault_table):
    run = [sys.executable, "-c", WRITER, str(tmp_path), *clips]
    done = subprocess.run(
        run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    sums = [str(read_video(path).frames.sum()) for path in clips]
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*sums, "4", "4"]
    assert done.stderr.count("not added to the frame cache") == 1 and "too large" in done.stderr
    assert not list(tmp_path.glob("??/*")) and not list(tmp_path.glob("??/.*"))
    fault_table("clips decoded while the frame cache's disk takes no more", len(clips), 4)


def test_a_nearly_full_disk_is_left_to_others(clips, monkeypatch, capsys, tmp_path):
    usage = type("Usage", (), {"free": 30_000_000, "total": 10**12})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    cache = FrameCache(tmp_path, 1)
    cache(clips[0])
    assert cache.counts.unwritten == 1 and "nearly full: 30000000 bytes" in capsys.readouterr().err


def test_an_error_of_the_reader_passes(clips, tmp_path):
    cache = FrameCache(tmp_path, 1)
    with pytest.raises(Ego2ExoError, match="nowhere.mp4 is not there"):
        cache(str(tmp_path / "nowhere.mp4"))
    (tmp_path / "bad.mp4").write_bytes(bytes(100))
    with pytest.raises(Ego2ExoError, match="bad.mp4 does not decode"):
        cache(str(tmp_path / "bad.mp4"))
    assert cache.counts == Counts()


def test_a_file_that_changes_while_it_is_read_is_not_kept(clips, monkeypatch, tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(open(clips[0], "rb").read())
    original = reader.read_video

    def slow(path, *rest, **named):
        clip = original(path, *rest, **named)
        os.utime(film, ns=(0, 5))
        return clip

    monkeypatch.setattr(reader, "read_video", slow)
    cache = FrameCache(tmp_path / "cache", 1)
    cache(str(film))
    assert not list((tmp_path / "cache").glob("??/*"))


def _reads(cache, paths, seed, wrong):
    draw, plain = random.Random(seed), {}
    for _ in range(25):
        path = draw.choice(paths)
        plain.setdefault(path, read_video(path).frames)
        if not np.array_equal(cache(path).frames, plain[path]):
            wrong.value += 1


@pytest.mark.fault
def test_many_processes(clips, tmp_path, fault_table):
    """Four processes read, add and remove at once; the bound holds up to the clips in flight, counts are of all."""
    size, fork = read_video(clips[0]).frames.nbytes, multiprocessing.get_context("fork")
    cache, wrong = FrameCache(tmp_path, 2.5 * size / 1e9), fork.Value("i", 0)
    processes = [fork.Process(target=_reads, args=(cache, clips, seed, wrong)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    counts = cache.counts
    assert counts.hits + counts.misses == 100 and counts.hits > 10 and counts.removed > 0
    assert sum(size for _, size in cache.files.sizes().values()) <= (2.5 + 4) * size
    fault_table("reads of one small frame cache by four processes at once", 100, 100 - wrong.value)


def test_counts_add_up():
    assert Counts(1, 2, 3) + Counts(hits=1, unwritten=4) == Counts(2, 2, 3, unwritten=4)
    assert "4 clip(s) not added" in Counts(unwritten=4).told()


def test_without_a_folder_every_clip_is_decoded(clips, decoded, tmp_path):
    read = frame_cache.Reading().reader()
    same(read(clips[0], frames_upbound=2), read(clips[0], frames_upbound=2))
    assert len(decoded) == 2 and frame_cache.counts_of(read) is None
    read = frame_cache.Reading(str(tmp_path)).reader()
    read(clips[0])
    counts = frame_cache.counts_of(read)
    assert counts.misses == 1 and frame_cache.told_of([counts, None, counts])[0] == (counts + counts).told()
    assert frame_cache.told_of([None]) == []


@pytest.mark.parametrize("most", [0, -1, float("nan"), float("inf")])
def test_a_bound_that_is_none(most):
    with pytest.raises(Ego2ExoError, match="--frame-cache-gb .*above 0"):
        frame_cache.Reading("x", most)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Ego2ExoError, match="--frame-cache .*file is a file"):
        frame_cache.Reading(str(tmp_path / "file"))


def test_what_other_limits_refuse_is_not_taken_from_the_cache(clips, tmp_path):
    FrameCache(tmp_path, 1)(clips[0])
    strict = FrameCache(tmp_path, 1, reader.VideoLimits(video_max_megapixels=0.001))
    with pytest.raises(Ego2ExoError, match="0.mp4.*megapixels"):
        strict(clips[0])
