"""pairs.jsonl: what is written is read, and whatever is wrong is named, with its line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.distill.pairs.file import read_pairs, require_files, write_pairs
from llava_ego2exo.distill.pairs.pair import FIELDS, Pair

GOOD = {"segment": "a", "ego": "a_ego.mp4", "exo": {"exo1": "a_exo1.mp4"}}


def write_lines(path, *records):
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records))
    return path


def test_round_trip_with_relative_and_absolute_paths(tmp_path):
    inside = Pair("t1_0003", str(tmp_path / "v/e.mp4"), {"exo1": "/elsewhere/x.mp4"}, 1.5, 4.0, -0.2, "val", "t1")
    whole = Pair("naïve ☕", tmp_path / "e2.mp4", {"exo2": tmp_path / "x2.mp4", "exo10": tmp_path / "x10.mp4"})
    path = write_pairs(tmp_path / "pairs.jsonl", [inside, whole])
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert tuple(records[0]) == FIELDS
    assert records[0]["ego"] == "v/e.mp4" and records[0]["exo"] == {"exo1": "/elsewhere/x.mp4"}
    assert records[1]["take"] == "naïve ☕" and records[1]["start_s"] is None
    assert read_pairs(path) == [inside, whole]
    assert list(read_pairs(path)[1].exo) == ["exo2", "exo10"]
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_moved_folder_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    tmp_path.rename(tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved")
    assert [pair.ego for pair in read_pairs(moved / "p.jsonl")] == [str(moved / "a_ego.mp4")]
    moved.rename(tmp_path)


@pytest.mark.parametrize(
    ("change", "token"),
    [
        ({"sgement": 1, "fps": 2}, "'sgement', 'fps'"), ({"exo": {}}, "exo {}"), ({"exo": ["x.mp4"]}, "exo .'x.mp4'."),
        ({"exo": {"ego": "x.mp4"}}, "exo 'ego'"), ({"exo": {"exo1": ""}}, "exo 'exo1' ''"), ({"ego": "a\0b"}, "ego 'a"),
        ({"segment": 7}, "segment 7"), ({"take": "../t"}, "take '../t'"), ({"segment": "x" * 300}, "200 bytes"),
        ({"start_s": -1}, "start_s -1"), ({"start_s": True}, "start_s True"), ({"end_s": 0}, "end_s 0 is not after"),
        ({"offset_s": float("nan")}, "offset_s nan"), ({"end_s": 1e9}, "end_s 1000"), ({"split": "dev"}, "split"),
    ],
)  # fmt: skip
def test_a_faulty_value_is_named(change, token, tmp_path):
    with pytest.raises(Ego2ExoError, match=f"1 fault.*line 1 .*{token}"):
        read_pairs(write_lines(tmp_path / "p.jsonl", {**GOOD, **change}))


def test_all_faulty_lines_are_named_at_once(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", GOOD, "{oops", [1], {"segment": "b"}, "3", "[" * 100_000, GOOD)
    with pytest.raises(Ego2ExoError) as caught:
        read_pairs(path)
    for token in ("6 fault(s)", "line 2 is no JSON", "line 3 is a list", "line 5 is a int", "and 1 more"):
        assert token in caught.value.given
    with pytest.raises(Ego2ExoError, match="'a' is in lines 1, 3"):
        read_pairs(write_lines(tmp_path / "q.jsonl", GOOD, {**GOOD, "segment": "b"}, GOOD))


def test_files_that_are_empty_or_unreadable(tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"\n \n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"segment": "caf\xe9"}')
    for name, token in {"no": "No such file", "empty.jsonl": "no pair", "latin.jsonl": "line 1"}.items():
        with pytest.raises(Ego2ExoError, match=token):
            read_pairs(tmp_path / name)


def test_writing_refuses_what_reading_would_and_missing_files_are_named(tmp_path):
    pair = Pair("a", tmp_path / "e.mp4", {"exo1": tmp_path / "x.mp4"})
    for pairs, token in (([pair, pair], "repeated segment.*: a"), ([], "no pair")):
        with pytest.raises(Ego2ExoError, match=token):
            write_pairs(tmp_path / "p.jsonl", pairs)
    with pytest.raises(Ego2ExoError, match="pair 'a/b': segment"):
        Pair("a/b", "e.mp4", {"exo1": "x.mp4"})
    (tmp_path / "e.mp4").write_bytes(b"x")
    with pytest.raises(Ego2ExoError, match=r"2 video\(s\).*a exo1: .*x.mp4; b ego: "):
        require_files([pair, Pair("b", tmp_path, {"exo1": tmp_path / "e.mp4"})])


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.text(), max_size=2)
RECORDS = st.fixed_dictionaries(
    {"segment": st.text(min_size=1), "ego": st.text(min_size=1), "exo": st.dictionaries(st.text(), st.text())},
    optional={field: VALUES for field in FIELDS[4:]},
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.lists(RECORDS.map(json.dumps) | st.text(max_size=20), max_size=4))
def test_reading_raises_nothing_else_and_what_it_reads_survives_writing(tmp_path, content):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else "\n".join(content).encode("utf-8", "surrogatepass"))
    try:
        pairs = read_pairs(path)
    except Ego2ExoError:
        return
    assert read_pairs(write_pairs(tmp_path / "again.jsonl", pairs)) == pairs
