"""Readers: every layout gives the common items; whatever is wrong with a file or a row is named, with its place."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.evaluation.benchmarks import BENCHMARKS, data_file, read_benchmark
from llava_ego2exo.evaluation.items import Item
from llava_ego2exo.evaluation.readers.json_file import load_json
from llava_ego2exo.evaluation.readers.options import numbered_lists
from llava_ego2exo.evaluation.readers.tsu_description import QUESTION, split_into_clips

from ..conftest import REAL_VIDEOS
from .rows import CHARADES, DESCRIBED, EGO_IN_EXO, FILES, OPTIONS, SMARTHOME, SPANS, TODAY, TSU, written

ADLX_CHOICE = ["adlx-charades-ar", "adlx-smarthome-ar", "adlx-lemma-tc", "adlx-tsu-tc"]


@pytest.fixture
def read(tmp_path):
    """Reads a value as the file of a benchmark."""

    def run(name, value, **how):
        return read_benchmark(name, written(tmp_path / "data.json", value), **how)

    return run


def test_the_seven_names_and_what_they_are():
    assert list(BENCHMARKS) == list(FILES)
    assert [name for name, known in BENCHMARKS.items() if known.kind == "description"] == [
        "adlx-charades-desc",
        "adlx-tsu-desc",
    ]


def test_todays_row_whole(read):
    assert read("adlx-tsu-tc", [TODAY]).items == [
        Item(
            id="kitchen_1:0",
            benchmark="adlx-tsu-tc",
            category="TSU-TC",
            view="",
            video="a/kitchen_1.mp4",
            question="What happens next?",
            choices={"A": "open jar", "B": "close jar", "C": "wash hands"},
            answer="B",
            row="kitchen_1:0",
            source="data.json, row 0",
        )
    ]


def test_ego_in_exo_by_views(read):
    both = read("ego-in-exo", [EGO_IN_EXO, {**EGO_IN_EXO, "question": "Q2"}], views=("exo", "ego")).items
    assert [(item.id, item.view, item.video) for item in both] == [
        ("exo:take7_0003_exo12:0", "exo", "take7_0003_exo12.mp4"),
        ("ego:take7_0003_exo12:0", "ego", "take7_0003_ego.mp4"),
        ("exo:take7_0003_exo12:1", "exo", "take7_0003_exo12.mp4"),
        ("ego:take7_0003_exo12:1", "ego", "take7_0003_ego.mp4"),
    ]
    assert {item.category for item in both} == {"Hand Identification"}
    named = {**EGO_IN_EXO, "video_filename": "exo1_take_exo2.MP4"}
    assert [i.video for i in read("ego-in-exo", [named], views=["ego", "exo"]).items] == [
        "exo1_take_ego.mp4",
        "exo1_take_exo2.mp4",
    ]


def test_a_name_that_has_no_ego_video(read):
    rows = [EGO_IN_EXO, {**EGO_IN_EXO, "video_filename": "t_exo1_x"}]
    assert read("ego-in-exo", rows).items[1].video == "t_exo1_x.mp4"
    with pytest.raises(Ego2ExoError, match="row 1: 't_exo1_x' does not end in exoN"):
        read("ego-in-exo", rows, views=("ego",))
    assert [item.id for item in read("ego-in-exo", rows, views=("ego",), max_bad=1).items] == ["ego:take7_0003_exo12:0"]


@pytest.mark.parametrize("views", [("top",), (), ("exo", "side")])
def test_unknown_views_are_refused(read, views):
    with pytest.raises(Ego2ExoError, match="--view.*exo, ego for ego-in-exo"):
        read("ego-in-exo", [EGO_IN_EXO], views=views)


def test_one_camera_has_no_ego_view(read):
    with pytest.raises(Ego2ExoError, match="--view ego.*one camera only"):
        read("adlx-tsu-tc", [TODAY], views=("ego",))


@pytest.mark.parametrize("name", ADLX_CHOICE)
def test_every_layout_fits_every_multiple_choice_set(read, name):
    files = {"today": [TODAY], "legacy Charades": [CHARADES], "legacy Smarthome": {"a": SMARTHOME},
             "legacy LEMMA": {"a": SPANS}, "legacy TSU": [OPTIONS]}  # fmt: skip
    for layout, value in files.items():
        found = read(name, value)
        assert found.layout == layout and len(found.items) == 1
        assert (found.items[0].benchmark, found.items[0].category) == (name, BENCHMARKS[name].title)


def test_legacy_charades_lists_become_texts(read):
    (item,) = read("adlx-charades-ar", [CHARADES]).items
    assert item.choices == {"1": "Open a box, Fold someone's shirt", "2": "Open a box", "3": "Sit 2. [down], Stand"}
    assert (item.answer, item.video, item.id) == ("3", "QX7", "QX7:0")


def test_legacy_smarthome_finds_the_key_by_text(read):
    (item,) = read("adlx-smarthome-ar", {"17": SMARTHOME}).items
    assert (item.answer, item.choices["2"]) == ("2", "reading")
    assert (item.video, item.id, item.source) == ("/data/x/Walk.Fast_p1.mp4", "Walk.Fast_p1:0", "data.json, row '17'")


def test_legacy_spans(read):
    found = read("adlx-lemma-tc", {"0": SPANS, "1": {**SPANS, "start_timestamp": "0.5", "answer": "c  D"}})
    assert [(item.start_s, item.end_s, item.answer) for item in found.items] == [(2.0, 6.0, "F"), (0.5, 6.0, "B")]
    assert found.precut == {"12l-1:0": "12l-1_60_180.mp4", "12l-1:1": "12l-1_60_180.mp4"}


def test_times_are_read_in_every_layout(read):
    found = read("adlx-tsu-tc", [{**TODAY, "start_timestamp": 1, "end_timestamp": 2.5}])
    assert (found.items[0].start_s, found.items[0].end_s) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("options", "correct", "choices", "answer"),
    [
        ({"A": "Walk", "B": "Sit"}, "B", {"A": "Walk", "B": "Sit"}, "B"),
        ({"A": "Walk", "B": "Sit"}, " sit", {"A": "Walk", "B": "Sit"}, "B"),
        ({"1": "Walk", "2": "Sit"}, "2. Sit", {"1": "Walk", "2": "Sit"}, "2"),
        (["Walk", "Sit"], "Walk", {"A": "Walk", "B": "Sit"}, "A"),
        (["Walk", "Sit"], "B", {"A": "Walk", "B": "Sit"}, "B"),
        (["A. Walk", "B. Sit"], "B. Sit", {"A": "Walk", "B": "Sit"}, "B"),
        (["(1) Walk", "(2) Sit"], "1", {"1": "Walk", "2": "Sit"}, "1"),
        (["1.5 cups", "2.5 cups"], "2.5 cups", {"A": "1.5 cups", "B": "2.5 cups"}, "B"),
    ],
)
def test_options_as_object_or_list_and_answer_as_key_or_text(read, options, correct, choices, answer):
    (item,) = read("adlx-tsu-tc", [{**OPTIONS, "options": options, "correct_answer": correct}]).items
    assert (item.choices, item.answer) == (choices, answer)


@pytest.mark.parametrize(
    ("options", "correct", "message"),
    [
        ({"A": "B", "B": "C"}, "B", "matches several options: A, B"),
        (["Walk", "Sit"], "C", "'C' matches no option"),
        (["Walk", "Sit"], "A. Sit", "matches no option"),
        (["Walk", "Sit"], 1, "correct_answer is a number, not a text"),
        (["x"] * 2, "A", "'A' and 'B' are the same: 'x'"),
        ([f"x{n}" for n in range(27)], "A", "has the key 'option 27'"),
        ("Walk or sit", "A", "options is a text, not an object"),
        (None, "A", "options is null"),
    ],
)
def test_what_is_ambiguous_is_refused(read, options, correct, message):
    with pytest.raises(Ego2ExoError, match=message):
        read("adlx-tsu-tc", [{**OPTIONS, "options": options, "correct_answer": correct}])


def test_three_questions_of_a_described_row(read):
    items = read("adlx-charades-desc", [DESCRIBED]).items
    assert [(item.id, item.part, item.question, item.answer) for item in items] == [
        ("QX7:0:main", "main", "What happens?", "A man folds a shirt."),
        ("QX7:0:consistency1", "consistency1", "Say it.", "He folds."),
        ("QX7:0:consistency2", "consistency2", "Say it again.", "He folds."),
    ]
    assert {(item.row, item.kind, item.video) for item in items} == {("QX7:0", "description", "QX7")}


def test_a_description_is_split_once_its_length_is_known(read):
    (item,) = read("adlx-tsu-desc", TSU).items
    assert (item.video, item.question, item.part, item.answer) == ("P02T01", QUESTION, "", TSU["P02T01"])
    clips = split_into_clips(item, 3.4)
    assert [(c.id, c.part, c.start_s, c.end_s) for c in clips] == [
        ("P02T01:0:0", "0", 0.0, 1.0),
        ("P02T01:0:1", "1", 1.0, 2.0),
        ("P02T01:0:2", "2", 2.0, 3.4),
    ]
    assert {(clip.row, clip.answer) for clip in clips} == {(item.row, item.answer)}
    assert [clip.end_s for clip in split_into_clips(item, 2.5)] == [1.0, 2.0, 2.5]
    assert [clip.end_s for clip in split_into_clips(item, 0.2)] == [0.2]
    assert [clip.end_s for clip in split_into_clips(item, 130, 60)] == [60, 130.0]


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 100), st.floats(0.5, 100))
def test_clips_lie_end_to_end(duration, seconds):
    item = Item("a:0", "adlx-tsu-desc", "c", "", "a", "q", kind="description")
    clips = split_into_clips(item, duration, seconds)
    assert clips[0].start_s == 0 and clips[-1].end_s == duration
    assert all(one.end_s == next_one.start_s for one, next_one in zip(clips, clips[1:], strict=False))
    assert all(clip.end_s > clip.start_s for clip in clips)


@pytest.mark.parametrize("length", [(0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1), (3, 0), (1e9, 1)])
def test_lengths_that_make_no_clips(length):
    item = Item("a:0", "adlx-tsu-desc", "c", "", "a", "q", kind="description")
    with pytest.raises(Ego2ExoError, match="in clips of"):
        split_into_clips(item, *length)
    for other in (replace(item, part="1"), replace(item, kind="choice"), replace(item, end_s=3.0)):
        with pytest.raises(Ego2ExoError, match="cannot be split"):
            split_into_clips(other, 3)


ABC = {"A": "open jar", "B": "close jar"}
FAULTS = [
    ("adlx-tsu-tc", TODAY, {"question": None}, "question is null"),
    ("adlx-tsu-tc", TODAY, {"question": ["x"]}, "question is a list, not a text"),
    ("adlx-tsu-tc", TODAY, {"question": "  "}, "question is empty"),
    ("adlx-tsu-tc", TODAY, {"question": "\ud800"}, "no valid Unicode"),
    ("adlx-tsu-tc", TODAY, {"video_filename": "a/.."}, "names no file"),
    ("adlx-tsu-tc", TODAY, {"video_filename": "a\n.mp4"}, "names no file"),
    ("adlx-tsu-tc", TODAY, {"video_filename": 7}, "video_filename is a number"),
    ("adlx-tsu-tc", TODAY, {"answer_choices": {"A": "x"}, "ground_truth_letter": "A"}, "has 1 option"),
    ("adlx-tsu-tc", TODAY, {"answer_choices": {}}, "has 0 option"),
    ("adlx-tsu-tc", TODAY, {"answer_choices": ["a", "b"]}, "answer_choices is a list, not an object"),
    ("adlx-tsu-tc", TODAY, {"answer_choices": {**ABC, "C": " "}}, "answer_choices 'C' is empty"),
    ("adlx-tsu-tc", TODAY, {"answer_choices": {**ABC, "C": 3}}, "answer_choices 'C' is a number"),
    ("adlx-tsu-tc", TODAY, {"answer_choices": {**ABC, "C": "Close  jar"}}, "'B' and 'C' are the same"),
    ("adlx-tsu-tc", TODAY, {"answer_choices": {**ABC, "b": "x"}}, "keys B and b"),
    ("adlx-tsu-tc", TODAY, {"answer_choices": {**ABC, "(C)": "x"}}, "key '\\(C\\)'"),
    ("adlx-tsu-tc", TODAY, {"ground_truth_letter": "D"}, "'D' is none of the choices A, B, C"),
    ("adlx-tsu-tc", TODAY, {"ground_truth_letter": "b"}, "'b' is none of the choices"),
    ("adlx-tsu-tc", TODAY, {"ground_truth_letter": 1}, "ground_truth_letter is a number"),
    ("adlx-tsu-tc", TODAY, {"ground_truth_letter": True}, "ground_truth_letter is true or false"),
    (
        "adlx-tsu-tc",
        TODAY,
        {"start_timestamp": 3, "end_timestamp": 3},
        "end_timestamp 3 is not after start_timestamp 3",
    ),
    ("adlx-tsu-tc", TODAY, {"start_timestamp": 3}, "lacks end_timestamp"),
    ("adlx-tsu-tc", TODAY, {"id": [1]}, "id is a list"),
    ("ego-in-exo", EGO_IN_EXO, {"category_name": ""}, "category_name is empty"),
    ("adlx-charades-ar", CHARADES, {"Options": "1. ['a'] 2. b"}, "Options .* is not of the form"),
    ("adlx-charades-ar", CHARADES, {"Options": "1. ['a'] 1. ['b']"}, "is not of the form"),
    ("adlx-charades-ar", CHARADES, {"Options": "1. ['a'] 2. [__import__('os')]"}, "is not of the form"),
    ("adlx-charades-ar", CHARADES, {"Options": "1. ['a'] 2. ['\\x']"}, "is not of the form"),
    ("adlx-charades-ar", CHARADES, {"Options": "1. ['a'] 2. []"}, "Options 2 is empty"),
    ("adlx-charades-ar", CHARADES, {"Options": "1. ['a', 'b'] 2. ['a, b']"}, "'1' and '2' are the same"),
    ("adlx-charades-ar", CHARADES, {"Ground Truth": ["Stand"]}, "Ground Truth .* matches no option"),
    ("adlx-charades-ar", CHARADES, {"Ground Truth": "Stand"}, "Ground Truth 'Stand' is no list of texts"),
    ("adlx-charades-ar", CHARADES, {"Ground Truth": []}, "is no list of texts"),
    ("adlx-smarthome-ar", SMARTHOME, {"ground_truth": "read"}, "'read' matches no option"),
    ("adlx-smarthome-ar", SMARTHOME, {"ground_truth": "2"}, "'2' matches no option"),
    ("adlx-lemma-tc", SPANS, {"answer": "G"}, "'G' matches no option"),
    ("adlx-lemma-tc", SPANS, {"start_timestamp": -1}, "start_timestamp -1 is no number of seconds"),
    ("adlx-lemma-tc", SPANS, {"start_timestamp": "0:02"}, "start_timestamp '0:02' is no number of seconds"),
    ("adlx-lemma-tc", SPANS, {"start_timestamp": True}, "start_timestamp True is no number"),
    ("adlx-lemma-tc", SPANS, {"start_timestamp": None, "end_timestamp": None}, "start_timestamp is null"),
    ("adlx-charades-desc", DESCRIBED, {"cons_A": 5}, "cons_A is a number"),
    ("adlx-charades-desc", DESCRIBED, {"video_name": ""}, "video_name is empty"),
]


@pytest.mark.parametrize(("name", "row", "change", "message"), FAULTS)
def test_a_malformed_row_is_named_with_its_place(read, name, row, change, message):
    good = [{**row, **({"id": f"QX{n}"} if "id" in row else {}), _video_of(row): f"v{n}_exo1.mp4"} for n in range(2)]
    with pytest.raises(Ego2ExoError, match=rf"data\.json: 1 malformed row\(s\) of 3: row 2: .*{message}"):
        read(name, [*good, {**row, **change}])
    found = read(name, [*good, {**row, **change}], max_bad=1)
    assert len({item.row for item in found.items}) == 2 and len(found.bad) == 1 and found.rows == 3


def _video_of(row):
    return next(key for key in ("video_filename", "video_id", "video_path", "video_name", "id") if key in row)


def test_times_that_are_not_finite(read):
    for number in ("1e999", "-1e999"):
        text = json.dumps({"0": SPANS}).replace('"end_timestamp": 6.0', f'"end_timestamp": {number}')
        with pytest.raises(Ego2ExoError, match="end_timestamp .too large. is no number of seconds"):
            read("adlx-lemma-tc", text)


def test_all_malformed_rows_are_named_and_may_be_left_out(read):
    rows = [{**TODAY, "video_filename": f"{n}.mp4"} for n in range(20)]
    for n in (3, 7, 8, 11, 12, 19):
        rows[n] = {**rows[n], "question": None, "ground_truth_letter": "Z"}
    rows[5] = {key: value for key, value in rows[5].items() if key != "question"}
    rows[6] = "no row"
    with pytest.raises(Ego2ExoError) as raised:
        read("adlx-tsu-tc", rows, max_bad=7)
    text = str(raised.value)
    assert all(f"row {n}: question is null, ground_truth_letter 'Z'" in text for n in (3, 7, 8, 11, 12, 19))
    assert "8 malformed row(s) of 20" in text and "row 5: lacks question" in text and "row 6: is a text" in text
    assert "--max-bad-rows 8" in text
    found = read("adlx-tsu-tc", rows, max_bad=8)
    assert [item.id for item in found.items] == [f"{n}:{n}" for n in range(20) if n not in (3, 5, 6, 7, 8, 11, 12, 19)]
    assert [text.split(":")[0] for text in found.bad] == [f"row {n}" for n in (3, 5, 6, 7, 8, 11, 12, 19)]


def test_nothing_but_malformed_rows_is_never_a_benchmark(read):
    with pytest.raises(Ego2ExoError, match="1 malformed row.s. of 1.*at least one good row.*mend these rows.$"):
        read("adlx-tsu-tc", [{**TODAY, "question": ""}], max_bad=99)
    with pytest.raises(Ego2ExoError, match="--max-bad-rows -1"):
        read("adlx-tsu-tc", [TODAY], max_bad=-1)


def test_duplicates(read):
    other = {**TODAY, "answer_choices": {"C": "wash hands", "B": "close jar", "A": "open jar"}}
    with pytest.raises(Ego2ExoError, match="row 2: asks the same of 'a/kitchen_1.mp4' as row 0"):
        read("adlx-tsu-tc", [TODAY, {**TODAY, "question": "Else?"}, other])
    assert len(read("adlx-tsu-tc", [TODAY, {**TODAY, "start_timestamp": 1, "end_timestamp": 2}]).items) == 2
    with pytest.raises(Ego2ExoError, match="row 1: id 'QX7' is that of row 0 too"):
        read("adlx-charades-ar", [CHARADES, {**CHARADES, "Q": "Else?"}])
    assert len(read("adlx-charades-ar", [CHARADES, {**CHARADES, "Q": "Else?"}], max_bad=1).items) == 1
    with pytest.raises(Ego2ExoError, match=r"key\(s\) '0' stand twice in one object"):
        read("adlx-smarthome-ar", f'{{"0": {json.dumps(SMARTHOME)}, "0": {json.dumps(SMARTHOME)}}}')
    with pytest.raises(Ego2ExoError, match="row 1: asks the same"):
        read("adlx-charades-desc", [DESCRIBED, DESCRIBED])


def test_categories(read):
    rows = [{**EGO_IN_EXO, "category_name": name, "question": name} for name in ("Hand", "Object", "Hand 2")]
    assert [i.category for i in read("ego-in-exo", rows, categories=["Hand 2", "Hand"]).items] == ["Hand", "Hand 2"]
    for wanted in (["Hand", "hands"], ["hand"], []):
        with pytest.raises(Ego2ExoError, match="--categories.*Allowed: Hand, Object, Hand 2"):
            read("ego-in-exo", rows, categories=wanted)
    assert read("adlx-tsu-tc", [{**TODAY, "category_name": "late"}]).items[0].category == "late"


def test_keys_that_are_not_read_are_counted(read):
    rows = [{**TODAY, "split": "test"}, {**TODAY, "question": "Q2", "split": "test", "note": 1}]
    assert read("adlx-tsu-tc", rows).unread == {"split": 2, "note": 1}
    assert read("adlx-lemma-tc", {"0": SPANS}).unread == {}


def test_ids_are_unique_and_without_white_space(read):
    rows = [
        {**TODAY, "video_filename": name}
        for name in ("a b.mp4", "a_b.mp4", "x/a b.mp4", "a\u00a0b.mkv", "a:b", "å" * 99)
    ]
    ids = [item.id for item in read("adlx-tsu-tc", rows).items]
    assert len(set(ids)) == 6 and not any(set(name) & set(" \t\u00a0") for name in ids) and max(map(len, ids)) < 90


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "holds no row"),
        ({}, "holds no row"),
        (5, "holds a number"),
        ("null", "holds null"),
        ([[]], "row 0 is a list"),
        ([{"a": 1, "question": 2}], "row 0 has the keys a, question.*today .rows with the keys video_filename"),
        ([{**TODAY, "question": 1, "answer": 2} | {"answer_choices": 1}], "1 malformed row"),
        (TSU, "row 'P02T01' is a text"),
        ([DESCRIBED], "fits no layout.*video_name"),
        ("", "breaks off at line 1, column 1"),
        ("[1,\n 2", "breaks off at line 2, column 3"),
        (json.dumps([TODAY] * 3)[:200], "breaks off.*cut off"),
        (json.dumps([TODAY], indent=1).replace(",", "", 1), "Expecting ',' delimiter at line 4"),
        ("[NaN]", "it holds NaN"),
        ("[-Infinity]", "it holds -Infinity"),
        ("[" * 100_000, "nested too deep"),
        (f"[1{'0' * 5000}]", "a number of 5001 digits, and 40 are allowed"),
        (b'["\xff"]', "is no UTF-8: byte 2"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_why(read, value, message):
    with pytest.raises(Ego2ExoError, match=message):
        read("adlx-tsu-tc", value)


def test_a_mark_of_byte_order_is_no_fault(read):
    assert len(read("adlx-tsu-tc", b"\xef\xbb\xbf" + json.dumps([TODAY]).encode()).items) == 1


def test_a_file_has_a_largest_size(tmp_path):
    path = written(tmp_path / "a.json", [1, 2, 3])
    assert load_json(path, 9) == [1, 2, 3]
    with pytest.raises(Ego2ExoError, match="a.json has 9 bytes.*8 bytes at most"):
        load_json(path, 8)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    for path in (tmp_path / "a.json", tmp_path / "b.json"):
        with pytest.raises(Ego2ExoError, match="is no file"):
            read_benchmark("adlx-tsu-tc", path)


@pytest.mark.parametrize(
    "name", ["Charades-AR.json", "LEGACY-Charades-AR.json", "charades_ar.JSON", "sub/Charades-AR.json"]
)
def test_a_folder_is_searched_by_published_names(tmp_path, name):
    path = written(tmp_path / name, [CHARADES])
    written(tmp_path / "TSU-TC.json", [OPTIONS])
    written(tmp_path / "a/b/Charades-AR.json", [CHARADES])
    assert data_file("adlx-charades-ar", tmp_path) == path
    assert read_benchmark("adlx-charades-ar", str(tmp_path)).path == path


def test_none_or_several_in_a_folder(tmp_path):
    with pytest.raises(Ego2ExoError, match="holds no file that fits; it holds no JSON file.*all_category_qas.json"):
        read_benchmark("ego-in-exo", tmp_path)
    written(tmp_path / "LEMMA-TC.json", [TODAY])
    written(tmp_path / "x/LEGACY-LEMMA-TC.json", {"0": SPANS})
    with pytest.raises(Ego2ExoError, match="it holds LEMMA-TC.json; x/LEGACY-LEMMA-TC.json"):
        read_benchmark("ego-in-exo", tmp_path)
    with pytest.raises(Ego2ExoError, match="holds 2 files that fit: LEMMA-TC.json; x/LEGACY-LEMMA-TC.json"):
        read_benchmark("adlx-lemma-tc", tmp_path)


def test_another_benchmarks_file_is_refused(tmp_path):
    path = written(tmp_path / "LEGACY-TSU-TC.json", [OPTIONS])
    with pytest.raises(Ego2ExoError, match="name of the file of adlx-tsu-tc, not of adlx-lemma-tc"):
        read_benchmark("adlx-lemma-tc", path)


def test_unknown_benchmarks_are_refused(tmp_path):
    for name in ("adlx", "EGO-IN-EXO", ""):
        with pytest.raises(Ego2ExoError, match="--benchmark .*ego-in-exo, adlx-charades-ar"):
            read_benchmark(name, tmp_path)


def test_long_options_are_read_in_no_time():
    assert numbered_lists("1. ['a'" + " " * 100_000) is None
    assert numbered_lists("1. [" + "'a', " * 50_000 + "'b'] 2. ['c']")["2"] == ["c"]
    assert numbered_lists("1. ['" + "\\" * 100_001) is None


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
SCALARS = SCALARS | st.sampled_from(["A", "1. ['a'] 2. ['b']", "open jar", "x_exo1", "1.5", "/", "..", "\ud800", "\0"])
KEYS = sorted({key for row in (EGO_IN_EXO, CHARADES, SMARTHOME, SPANS, OPTIONS, DESCRIBED) for key in row})
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*"AB1", *KEYS]) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)


def _rows_of(row):
    """The row with some of its values replaced, and others beside it."""
    changed = st.fixed_dictionaries({}, optional={key: JSON for key in [*row, "id", "start_timestamp"]})
    return changed.map(lambda change: {**row, **change})


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(list(BENCHMARKS)),
    st.lists(st.one_of(*map(_rows_of, (TODAY, EGO_IN_EXO, CHARADES, SMARTHOME, SPANS, OPTIONS, DESCRIBED))), max_size=3)
    | st.dictionaries(st.text(max_size=4), JSON | _rows_of(SPANS) | _rows_of(SMARTHOME), max_size=3)
    | JSON,
    st.sampled_from([0, 2]),
)
def test_nothing_else_is_raised(read, name, value, max_bad):
    try:
        found = read(name, value, max_bad=max_bad)
    except Ego2ExoError as error:
        str(error).encode()
        return
    assert found.items and all(isinstance(item, Item) for item in found.items)
    assert len({item.id for item in found.items}) == len(found.items)
    assert len({item.row for item in found.items}) + len(found.bad) == found.rows
    for item in found.items:
        assert item.kind == "description" or (item.answer in item.choices and len(item.choices) > 1)
        json.dumps(item.choices).encode(), item.video.encode(), item.question.encode()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.integers(0, 500).map(lambda end: json.dumps([CHARADES]).encode()[:end]))
def test_bytes_of_any_kind(read, content):
    with pytest.raises(Ego2ExoError):
        if read("adlx-charades-ar", content).items:
            raise Ego2ExoError("whole")


@pytest.fixture
def real_adlx():
    folder = REAL_VIDEOS.parent / "adlx"
    if not folder.is_dir():
        pytest.skip(f"no real files at {folder} (set EGO2EXO_SHARED)")
    return folder


@pytest.mark.parametrize(("name", "count"), [("adlx-charades-ar", 1814), ("adlx-smarthome-ar", 5405)])
def test_the_real_files_are_read_whole(real_adlx, name, count):
    found = read_benchmark(name, real_adlx)
    assert (len(found.items), found.rows, found.bad, found.unread) == (count, count, [], {})
    assert len({item.video for item in found.items}) == count
    assert {tuple(item.choices) for item in found.items} == {("1", "2", "3", "4")}


def test_the_real_answers_are_those_of_the_data(real_adlx):
    """Against the files themselves, read without any of our code."""
    rows = json.loads((real_adlx / "LEGACY-Smarthome-AR.json").read_text())
    items = read_benchmark("adlx-smarthome-ar", real_adlx).items
    assert [item.choices[item.answer] for item in items] == [row["ground_truth"] for row in rows.values()]
    rows = json.loads((real_adlx / "LEGACY-Charades-AR.json").read_text())
    items = read_benchmark("adlx-charades-ar", real_adlx).items
    assert [item.choices[item.answer] for item in items] == [", ".join(row["Ground Truth"]) for row in rows]
    for item, row in zip(items, rows, strict=True):
        lists = numbered_lists(row["Options"])
        assert row["Options"] == " ".join(f"{key}. {entries}" for key, entries in lists.items())
        assert item.choices == {key: ", ".join(entries) for key, entries in lists.items()}


def test_the_examples_of_the_document_are_read(read):
    """In the order of the table of layouts: each fits the layout under whose name it stands."""
    text = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text(encoding="utf-8")
    examples = re.findall(
        r"^\*\*(.+?)\*\*.*?^```json\n(.*?)^```$", text.replace("**today**", ""), re.DOTALL | re.MULTILINE
    )
    assert len(examples) == 7
    for layout, example in examples:
        name = next(name for name, known in BENCHMARKS.items() if layout in [reader.name for reader in known.readers])
        value = json.loads(example)
        found = read(name, value if next(iter(value)) in ("0", "P02T01") else [value])
        assert found.layout == layout and found.items
