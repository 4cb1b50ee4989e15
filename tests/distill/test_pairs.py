"""pairs.jsonl: what is written is read, and whatever is wrong is named, with its line."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.distill.pairs.file import Pair, pair_from_record, read_pairs, require_files, write_pairs
from llava_ego2exo.distill.pairs.pair import FIELDS, record_faults

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


def test_a_moved_folder_is_still_read(tmp_path):
    write_pairs(tmp_path / "old/p.jsonl", [Pair("a", tmp_path / "old/v/e.mp4", {"exo1": tmp_path / "old/v/x.mp4"})])
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_pairs(tmp_path / "new/p.jsonl")[0].ego == str(tmp_path / "new/v/e.mp4")


def test_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert [pair.segment for pair in read_pairs(path)] == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sgement": 1, "fps": 2}, "unknown key.*'sgement', 'fps'"),
        ({"exo": {}}, "exo is empty"),
        ({"exo": ["x.mp4"]}, "exo is a list"),
        ({"exo": {"ego": "x.mp4"}}, "other than 'ego'"),
        ({"exo": {"exo1": ""}}, "empty path"),
        ({"ego": None}, "ego is null"),
        ({"ego": "a\0b"}, "control characters"),
        ({"segment": "a/b"}, "cannot be part of a file name"),
        ({"segment": ""}, "is empty"),
        ({"segment": 7}, "segment 7 is a number, not a string"),
        ({"take": "../t"}, "cannot be part of a file name"),
        ({"segment": "x" * 300}, "longer than 200 bytes"),
        ({"start_s": -1}, "before the start"),
        ({"start_s": "1"}, "start_s '1' is not a number of seconds or null"),
        ({"start_s": True}, "not a number"),
        ({"start_s": 4, "end_s": 4.0}, "end_s 4 is not after start_s 4"),
        ({"end_s": 0}, "end_s 0 is not after start_s 0"),
        ({"offset_s": None}, "offset_s None is not a number of seconds"),
        ({"offset_s": float("nan")}, "offset_s nan is not"),
        ({"end_s": 10**5000}, "end_s of 16610 bits is not a number"),
        ({"split": "dev"}, "split 'dev' is none of train, val, test"),
        ({"split": ["train"]}, "split .* is none of"),
    ],
)
def test_a_faulty_value_is_named(change, message):
    record = {**GOOD, **change}
    assert any(re.search(message, fault) for fault in record_faults(record))
    with pytest.raises(Ego2ExoError, match=message):
        pair_from_record(record, "/")


def test_all_faulty_lines_are_named_at_once(tmp_path):
    deep = "[" * 100_000
    path = write_lines(tmp_path / "p.jsonl", GOOD, "{oops", [1], {"segment": "b"}, "3", deep, GOOD)
    with pytest.raises(Ego2ExoError) as caught:
        read_pairs(path)
    for text in ("6 fault(s)", "line 2 is no JSON", "line 3 is a list", "line 5 is a number",
                 "and 1 more"):  # fmt: skip
        assert text in str(caught.value)
    with pytest.raises(Ego2ExoError, match="'a' stands in lines 1, 3"):
        read_pairs(write_lines(tmp_path / "q.jsonl", GOOD, {**GOOD, "segment": "b"}, GOOD))


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(Ego2ExoError, match="holds no pair"):
        read_pairs(tmp_path / "p.jsonl")


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"segment": "caf\xe9"}')
    for path, message in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file"),
                          (tmp_path / "latin.jsonl", "line 1 is no JSON")):  # fmt: skip
        with pytest.raises(Ego2ExoError, match=message):
            read_pairs(path)


def test_writing_refuses_what_reading_would(tmp_path):
    pair = Pair("a", tmp_path / "e.mp4", {"exo1": tmp_path / "x.mp4"})
    with pytest.raises(Ego2ExoError, match="named twice: a"):
        write_pairs(tmp_path / "p.jsonl", [pair, pair])
    with pytest.raises(Ego2ExoError, match="no pair to write"):
        write_pairs(tmp_path / "p.jsonl", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(Ego2ExoError, match="cannot be written"):
        write_pairs(tmp_path / "file/p.jsonl", [pair])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    pair = Pair("a", tmp_path / "e.mp4", {"exo1": tmp_path / "x.mp4"})
    path = write_pairs(tmp_path / "p.jsonl", [pair])
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Ego2ExoError, match="No space left"):
        write_pairs(path, [pair, Pair("b", tmp_path / "e.mp4", {"exo1": tmp_path / "x.mp4"})])
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_require_files_names_every_missing_one(tmp_path):
    (tmp_path / "e.mp4").write_bytes(b"x")
    pairs = [
        Pair("a", tmp_path / "e.mp4", {"exo1": tmp_path / "x.mp4"}),
        Pair("b", tmp_path, {"exo1": tmp_path / "e.mp4"}),
    ]
    with pytest.raises(Ego2ExoError, match=r"2 video\(s\).*a exo1: .*x.mp4; b ego: "):
        require_files(pairs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.fixed_dictionaries({}, optional={field: JSON for field in FIELDS}) | st.fixed_dictionaries(
    {
        "segment": st.text(min_size=1),
        "ego": st.text(min_size=1),
        "exo": st.dictionaries(st.text(), st.text(), min_size=1),
    },
    optional={key: st.none() | st.floats() | st.integers() for key in ("start_s", "end_s", "offset_s")},
)
ONLY_FUNCTION_FIXTURE = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ONLY_FUNCTION_FIXTURE
@given(st.binary(max_size=200) | st.lists(RECORDS.map(json.dumps) | st.text(max_size=20), max_size=4))
def test_reading_raises_nothing_else_and_what_it_reads_survives_writing(tmp_path, content):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else "\n".join(content).encode("utf-8", "surrogatepass"))
    try:
        pairs = read_pairs(path)
    except Ego2ExoError:
        return
    assert read_pairs(write_pairs(tmp_path / "again.jsonl", pairs)) == pairs
