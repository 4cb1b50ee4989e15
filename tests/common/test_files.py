"""What every long run needs: files that are whole or not there, and lines that survive a cut at any byte."""

import os

import pytest

from llava_ego2exo.common.files import locked, write_atomic
from llava_ego2exo.common.jsonl import AppendFile, json_line, read_lines
from llava_ego2exo.errors import Ego2ExoError


def parse(record):
    if not isinstance(record, dict):
        raise ValueError("no object")
    return record


def read(path, torn=False):
    return list(read_lines(path, parse, torn, "llava-ego2exo x"))


def test_nothing_is_left_beside(tmp_path):
    path = write_atomic(tmp_path / "deep" / "file.txt", "first")
    assert write_atomic(path, b"second\xff").read_bytes() == b"second\xff"
    assert os.listdir(path.parent) == ["file.txt"]
    with AppendFile(tmp_path / "new" / "empty.jsonl"):
        pass
    assert not os.listdir(tmp_path / "new")


def test_one_run_at_a_time(tmp_path):
    with locked(tmp_path / "out"):
        with pytest.raises(Ego2ExoError, match="another run is using"), locked(tmp_path / "out"):
            pass
    with locked(tmp_path / "out"):
        pass


def test_a_cut_at_any_byte_loses_only_the_line_in_flight(tmp_path):
    records = [{"n": 1, "text": "é\n\N{GRINNING FACE}"}, {"n": 2}, {"n": 3, "text": "end"}]
    whole = "".join(map(json_line, records)).encode()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    path = tmp_path / "file.jsonl"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        there = records[: sum(end <= cut for end in ends)]
        assert read(path, torn=True) == there
        with AppendFile(path) as file:
            file.append([{"n": 9}])
        assert read(path) == [*there, {"n": 9}]


def test_damaged_lines_are_named_with_the_remedy(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text('{"n": 1}\n[]\n{"n":\n{"n": 4}\n' + "[" * 100_000 + "\n")
    with pytest.raises(Ego2ExoError, match=r"3 damaged line\(s\): line 2: no object; line 3.*line 5.*run the same"):
        read(path)
    path.write_text('{"n": 1}\n{"n"')
    with pytest.raises(Ego2ExoError, match="line 2 is torn"):
        read(path)
    assert read(path, torn=True) == [{"n": 1}]
