"""Parts of videos, reading ahead, and processes that do not find each other."""

import threading
import time

import numpy as np
import pytest

from llava_ego2exo.common.files import HASHES, file_hash, video_hashes
from llava_ego2exo.common.processes import started_ranks
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.inference.clip_jobs import read_ahead
from llava_ego2exo.video import read_video, time_instruction
from tests.videos import render_clip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """5 seconds, 4 frames a second."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    render_clip(path, "red", "left", frames=20, rate=4)
    return str(path)


def test_a_part_is_its_frames_with_times_of_its_own(video):
    whole = read_video(video, fps=4)
    for start_s, end_s, frames in ((0.9, None, range(4, 20)), (None, 0.3, range(2)), (4.75, 5.3, [19])):
        part = read_video(video, fps=4, start_s=start_s, end_s=end_s)
        assert np.array_equal(part.frames, whole.frames[list(frames)])
        assert part.times == [0.25 * number for number in range(len(frames))] and part.duration == len(frames) / 4
        assert time_instruction(part).startswith(f"The video lasts for {len(frames) / 4:.2f} seconds")
    for start_s, end_s in ((5.2, None), (1, 6)):
        with pytest.raises(Ego2ExoError, match="5.00 s"):
            read_video(video, start_s=start_s, end_s=end_s)


def test_reading_runs_ahead_but_not_far():
    read, lock = [], threading.Lock()

    def load(task):
        with lock:
            read.append(task)
        return task * 10

    batches = [(n, n + 0.5) for n in range(8)]
    for number, (batch, clips) in enumerate(read_ahead(batches, load, 2, ahead=2)):
        assert batch == batches[number] and clips == [task * 10 for task in batch]
        time.sleep(0.02)
        assert len(read) <= 2 * (number + 3)
    assert sorted(read) == sorted(task for batch in batches for task in batch)


def test_an_error_of_a_clip_is_its_result_and_any_other_is_raised():
    before = threading.active_count()

    def load(task):
        raise Ego2ExoError("broken") if task == 1 else MemoryError(f"task {task}")

    reading = read_ahead([(1,), (2,)], load, 2)
    assert next(reading)[1][0].given == "broken"
    with pytest.raises(MemoryError, match="task 2"):
        next(reading)
    time.sleep(0.1)
    assert threading.active_count() <= before


def test_hashes_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_text(file.name)
    paths = [str(file) for file in files]
    wanted = {path: file_hash(path) for path in paths}
    assert video_hashes([*paths, paths[0]], tmp_path) == wanted
    with (tmp_path / HASHES).open("a") as file:
        file.write('["torn')
    hashed = []
    monkeypatch.setattr("llava_ego2exo.common.files.file_hash", lambda path: hashed.append(path) or "new")
    assert video_hashes(paths, tmp_path) == wanted and not hashed
    files[1].write_text("longer")
    assert video_hashes(paths, tmp_path) == {paths[0]: wanted[paths[0]], paths[1]: "new"}
    assert video_hashes(paths, tmp_path)[paths[1]] == "new" and hashed == [paths[1]]


def test_processes_that_do_not_find_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(Ego2ExoError, match="MASTER_ADDR.*torchrun"), started_ranks():
        pass
