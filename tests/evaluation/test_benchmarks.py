"""Readers: every layout gives the common items; whatever is wrong with a file or a row is named, with its place."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.evaluation.benchmarks.fields import numbered_lists
from llava_ego2exo.evaluation.benchmarks.layouts import QUESTION, split_into_clips
from llava_ego2exo.evaluation.benchmarks.registry import BENCHMARKS, data_file, read_benchmark, video_folder
from llava_ego2exo.evaluation.check import check
from llava_ego2exo.evaluation.items import Item, Outcome
from llava_ego2exo.evaluation.stats.metrics import compute_metrics

from ..conftest import REAL_VIDEOS
from .rows import CHARADES, CURRENT, DESCRIBED, EGO_IN_EXO, EXO_FILE, FILES, OPTIONS, SMARTHOME, SPANS, TSU, written


@pytest.fixture
def read(tmp_path):
    """Reads a value as the file of a benchmark."""

    def run(name, value, **how):
        return read_benchmark(name, written(run.file, value), **how)

    run.file = tmp_path / "data.json"
    return run


def refused(read, *given, **how):
    with pytest.raises(Ego2ExoError) as caught:
        read(*given, **how)
    return caught.value


def test_a_current_row_whole(read):
    assert read("adlx-tsu-tc", [CURRENT]).items == [
        Item(
            id="kitchen_1:0", benchmark="adlx-tsu-tc", category="TSU-TC", view="", video="a/kitchen_1.mp4",
            question="What happens next?", choices={"A": "open jar", "B": "close jar", "C": "wash hands"}, answer="B",
            row="kitchen_1:0", source="data.json, row 0",
        )
    ]  # fmt: skip


def test_ego_in_exo_by_views(read):
    both = read("ego-in-exo", [EGO_IN_EXO, {**EGO_IN_EXO, "question": "Q2"}], views=("exo", "ego")).items
    assert [(item.id, item.view, item.video) for item in both][1:3] == [
        ("ego:take7_0003_exo12:0", "ego", "take7_0003_ego.mp4"),
        ("exo:take7_0003_exo12:1", "exo", "take7_0003_exo12.mp4"),
    ]
    assert len(both) == 4 and {item.category for item in both} == {"Hand Identification"}
    rows = [EGO_IN_EXO, {**EGO_IN_EXO, "video_filename": "t_exo1_x"}]
    assert read("ego-in-exo", rows).items[1].video == "t_exo1_x.mp4"
    assert "row 1: 't_exo1_x' does not end in exoN" in refused(read, "ego-in-exo", rows, views=("ego",)).given


def test_ego_in_exo_with_a_file_for_each_view(read):
    rows = [EXO_FILE, {**EXO_FILE, "question": "Q2", "video_filename": "other_exo1", "category_name": "Hands"}]
    found = read("ego-in-exo", rows, views=("exo", "ego"))
    assert [(item.view, item.video, item.answer, item.category) for item in found.items] == [
        (view, EXO_FILE[f"{view}_filename"], "B", category)
        for category in ("Ego-in-Exo Perception", "Hands")
        for view in ("exo", "ego")
    ]
    assert found.layout == "ego-in-exo by files" and found.unread == {"video_filename": 1}
    exo_alone = {key: value for key, value in EXO_FILE.items() if key != "ego_filename"}
    assert read("ego-in-exo", [exo_alone]).items[0].video == "cam/t7 left.mov"
    assert "does not end in exoN" in refused(read, "ego-in-exo", [exo_alone], views=("ego",)).given
    mixed = {key: value for key, value in EGO_IN_EXO.items() if key != "ground_truth_letter"}
    assert read("ego-in-exo", [{**mixed, "ground_truth": "C"}]).items[0].answer == "C"


@pytest.mark.parametrize(
    ("name", "how", "given", "allowed"),
    [
        ("ego-in-exo", {"views": ("top",)}, "--view top", "exo, ego"),
        ("adlx-tsu-tc", {"views": ("ego",)}, "--view ego", "one camera"),
        ("ego-in-exo", {"categories": ["hands"]}, "--categories 'hands'", "Hand Identification"),
        ("adlx", {}, "--benchmark 'adlx'", "ego-in-exo, adlx-charades-ar"),
    ],
)
def test_what_is_not_allowed_of_a_benchmark(read, name, how, given, allowed):
    error = refused(read, name, [EGO_IN_EXO], **how)
    assert given in error.given and allowed in error.allowed


def test_every_layout_fits_every_multiple_choice_set(read):
    files = {"current": [CURRENT], "legacy Charades": [CHARADES], "legacy Smarthome": {"a": SMARTHOME},
             "legacy LEMMA": {"a": SPANS}, "legacy TSU": [OPTIONS]}  # fmt: skip
    for name in ("adlx-charades-ar", "adlx-tsu-tc"):
        for layout, value in files.items():
            found = read(name, value)
            assert found.layout == layout and len(found.items) == 1 and not found.unread
            assert (found.items[0].benchmark, found.items[0].category) == (name, BENCHMARKS[name].title)


def test_legacy_values(read):
    (item,) = read("adlx-charades-ar", [CHARADES]).items
    assert item.choices == {"1": "Open a box, Fold someone's shirt", "2": "Open a box", "3": "Sit 2. [down], Stand"}
    assert (item.answer, item.video, item.id) == ("3", "QX7", "QX7:0")
    (item,) = read("adlx-smarthome-ar", {"17": SMARTHOME}).items
    assert (item.answer, item.choices["2"]) == ("2", "reading")
    assert (item.video, item.id, item.source) == ("/data/x/Walk.Fast_p1.mp4", "Walk.Fast_p1:0", "data.json, row '17'")
    found = read("adlx-lemma-tc", {"0": SPANS, "1": {**SPANS, "start_timestamp": "0.5", "answer": "c  D"}})
    assert [(item.start_s, item.end_s, item.answer) for item in found.items] == [(2.0, 6.0, "F"), (0.5, 6.0, "B")]
    assert found.precut == {"12l-1:0": "12l-1_60_180.mp4", "12l-1:1": "12l-1_60_180.mp4"}
    (item,) = read("adlx-tsu-tc", [{**CURRENT, "start_timestamp": 1, "end_timestamp": 2.5}]).items
    assert (item.start_s, item.end_s) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("options", "correct", "choices", "answer"),
    [
        ({"1": "Walk", "2": "Sit"}, "2. Sit", {"1": "Walk", "2": "Sit"}, "2"),
        (["A. Walk", "B. Sit"], "B. Sit", {"A": "Walk", "B": "Sit"}, "B"),
        (["(1) Walk", "(2) Sit"], "1", {"1": "Walk", "2": "Sit"}, "1"),
        (["1.5 cups", "2.5 cups"], "2.5 cups", {"A": "1.5 cups", "B": "2.5 cups"}, "B"),
        ({"A": "B", "B": "C"}, "B", None, "several options: A, B"),
        (["Walk", "Sit"], "A. Sit", None, "no option"),
        ([f"x{n}" for n in range(27)], "A", None, "the key '['"),
    ],
)
def test_options_as_object_or_list_and_answer_as_key_or_text(read, options, correct, choices, answer):
    rows = [{**OPTIONS, "options": options, "correct_answer": correct}]
    if choices is None:
        assert answer in refused(read, "adlx-tsu-tc", rows).given
    else:
        (item,) = read("adlx-tsu-tc", rows).items
        assert (item.choices, item.answer) == (choices, answer)


def test_questions_of_a_described_row_and_clips_of_a_described_video(read):
    items = read("adlx-charades-desc", [DESCRIBED]).items
    assert [(item.id, item.part, item.question, item.answer) for item in items] == [
        ("QX7:0:main", "main", "What happens?", "A man folds a shirt."),
        ("QX7:0:consistency1", "consistency1", "Say it.", "He folds."),
        ("QX7:0:consistency2", "consistency2", "Say it again.", "He folds."),
    ]
    (item,) = read("adlx-tsu-desc", TSU).items
    assert (item.video, item.question, item.part, item.answer) == ("P02T01", QUESTION, "", TSU["P02T01"])
    clips = split_into_clips(item, 3.4)
    assert [(clip.id, clip.part, clip.start_s, clip.end_s) for clip in clips] == [
        ("P02T01:0:0", "0", 0.0, 1.0), ("P02T01:0:1", "1", 1.0, 2.0), ("P02T01:0:2", "2", 2.0, 3.4),
    ]  # fmt: skip
    assert {(clip.row, clip.answer) for clip in clips} == {(item.row, item.answer)}
    assert [clip.end_s for clip in (*split_into_clips(item, 0.2), *split_into_clips(item, 130, 60))] == [0.2, 60, 130]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adlx-tsu-tc", [{**CURRENT, "answer_choices": {"A": "sit", "B": "walk", "C": "Walk "}}]),
        ("adlx-lemma-tc", {"57": {**SPANS, "choices": {"A": "x", "B": "walk", "C": "walk"}, "answer": "walk"}}),
        ("adlx-charades-ar", [{**CHARADES, "Options": "1. ['x'] 2. ['z'] 3. ['z']", "Ground Truth": ["z"]}]),
    ],
)
def test_options_of_the_same_text_are_asked_and_any_of_them_is_right(read, name, value):
    (item,) = read(name, value).items
    keys = list(item.choices)
    assert item.answer == keys[1] and item.right_keys == set(keys[1:])
    outcomes = [Outcome(item, f"m{key}", "generate", "parsed", key) for key in keys]
    assert [outcome.right for outcome in outcomes] == [False, True, True]
    metrics = compute_metrics(outcomes, [], {})
    assert metrics["accuracy"][0]["chance"] == pytest.approx(200 / 3)
    assert [note.split()[0] for note in metrics["notes"]] == ["1"]
    assert "the same text, which are asked as they are: 1" in check(name, read.file).text


ABC = {"A": "open jar", "B": "close jar"}
FAULTS = [
    ("ego-in-exo", EGO_IN_EXO, {"category_name": "all"}, "category_name 'all'"),
    ("adlx-tsu-tc", CURRENT, {"question": "\ud800"}, "Unicode"),
    ("adlx-tsu-tc", CURRENT, {"answer_choices": {"A": "x"}, "ground_truth_letter": "A"}, "1 option"),
    ("adlx-tsu-tc", CURRENT, {"ground_truth_letter": "b"}, "'b' is none of the choices A, B, C"),
    ("adlx-tsu-tc", CURRENT, {"start_timestamp": 3, "end_timestamp": 3}, "end_timestamp 3 is not after"),
    ("adlx-charades-ar", CHARADES, {"Options": "1. ['a'] 2. [__import__('os')]"}, "Options"),
    ("adlx-smarthome-ar", SMARTHOME, {"ground_truth": "sleeping"}, "'sleeping' matches no option"),
    ("adlx-lemma-tc", SPANS, {"start_timestamp": None, "end_timestamp": None}, "start_timestamp is null"),
    ("adlx-lemma-tc", SPANS, {"end_timestamp": 1e300}, "end_timestamp (too large)"),
    ("adlx-charades-desc", DESCRIBED, {"A": "--"}, "A '--' has no word"),
    ("ego-in-exo", EXO_FILE, {"ground_truth": "left"}, "ground_truth 'left' is none of the choices A, B"),
    ("ego-in-exo", EXO_FILE, {"ego_filename": 7}, "ego_filename is a number"),
]


@pytest.mark.parametrize(("name", "row", "change", "token"), FAULTS)
def test_a_malformed_row_is_named_with_its_place(read, name, row, change, token):
    names = ("video_filename", "video_id", "video_path", "video_name", "id", "exo_filename")
    video = next(key for key in names if key in row)
    good = [{**row, **({"id": f"QX{n}"} if "id" in row else {}), video: f"v{n}_exo1.mp4"} for n in range(2)]
    error = refused(read, name, [*good, {**row, **change}])
    assert "data.json: 1 malformed row(s) of 3: row 2: " in error.given and token in error.given


def test_a_description_without_a_word_is_no_description(read):
    told = {
        "P10T14C07": "****",
        "P1": "He sits.",
        "P2": "",
        "P3": " - ",
        "P4": "坐下",
        "P5": "?! 12",
        "P6": None,
    }
    error, bad = refused(read, "adlx-tsu-desc", told, max_bad=4), ("P10T14C07", "P2", "P3", "P5", "P6")
    assert "5 malformed row(s) of 7" in error.given and all(f"row '{name}': " in error.given for name in bad)
    found = read("adlx-tsu-desc", told, max_bad=5)
    assert [item.video for item in found.items] == ["P1", "P4"] and len(found.bad) == 5


def test_all_malformed_rows_are_named_and_may_be_left_out(read):
    rows = [{**CURRENT, "video_filename": f"{n}.mp4"} for n in range(20)]
    for n in (3, 7, 8, 11, 12, 19):
        rows[n] = {**rows[n], "question": None, "ground_truth_letter": "Z"}
    rows[5] = {key: value for key, value in rows[5].items() if key != "question"}
    rows[6] = "no row"
    error, bad = refused(read, "adlx-tsu-tc", rows, max_bad=7), (3, 5, 6, 7, 8, 11, 12, 19)
    assert "8 malformed row(s) of 20" in error.given and "--max-bad-rows 8" in error.remedy
    assert all(f"row {n}: " in error.given for n in bad) and "question is null, ground_truth_letter" in error.given
    found = read("adlx-tsu-tc", rows, max_bad=8)
    assert [item.id for item in found.items] == [f"{n}:{n}" for n in range(20) if n not in bad]
    assert [text.split(":")[0] for text in found.bad] == [f"row {n}" for n in bad]
    # Nothing but malformed rows is never a benchmark.
    assert "--max-bad-rows" not in refused(read, "adlx-tsu-tc", [{**CURRENT, "question": ""}], max_bad=99).remedy


def test_duplicates(read):
    other = {**CURRENT, "answer_choices": {"C": "wash hands", "B": "close jar", "A": "open jar"}}
    error = refused(read, "adlx-tsu-tc", [CURRENT, {**CURRENT, "question": "Else?"}, other])
    assert "row 2: asks the same of 'a/kitchen_1.mp4' as row 0" in error.given
    same_id = [CHARADES, {**CHARADES, "Q": "Else?"}]
    assert "row 1: id 'QX7'" in refused(read, "adlx-charades-ar", same_id).given


def test_categories_keys_that_are_not_read_and_ids(read):
    rows = [{**EGO_IN_EXO, "category_name": name, "question": name} for name in ("Hand", "Object", "Hand 2")]
    found = read("ego-in-exo", rows, categories=["Hand 2", "Hand"]).items
    assert [item.category for item in found] == ["Hand", "Hand 2"]
    assert read("adlx-tsu-tc", [{**CURRENT, "category_name": "late"}]).items[0].category == "late"
    rows = [{**CURRENT, "split": "test"}, {**CURRENT, "question": "Q2", "split": "test", "note": 1}]
    assert read("adlx-tsu-tc", rows).unread == {"split": 2, "note": 1}
    names = ("a b.mp4", "a_b.mp4", "x/a b.mp4", "a\u00a0b.mkv", "a:b", "å" * 99)
    ids = [item.id for item in read("adlx-tsu-tc", [{**CURRENT, "video_filename": name} for name in names]).items]
    assert len(set(ids)) == 6 and not any(set(name) & set(" \t\u00a0") for name in ids) and max(map(len, ids)) < 90


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ([], "no row"), ([[]], "row 0 is a list"), ([DESCRIBED], "video_name"),
        (json.dumps([CURRENT] * 3)[:200], "JSON"), ("[" * 100_000, "nested too deep"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_why(read, value, token):
    error = refused(read, "adlx-tsu-tc", value)
    assert "data.json" in error.given and token in error.given


def test_files_and_folders(tmp_path):
    published = ("Charades-AR.json", "LEGACY-Charades-AR.json", "charades_ar.JSON", "sub/Charades-AR.json")
    for number, name in enumerate(published):
        path = written(tmp_path / f"{number}" / name, [CHARADES])
        written(tmp_path / f"{number}/TSU-TC.json", [OPTIONS])
        written(tmp_path / f"{number}/a/b/Charades-AR.json", [CHARADES])
        assert data_file("adlx-charades-ar", tmp_path / f"{number}") == path
    assert "0 files of ego-in-exo" in refused(read_benchmark, "ego-in-exo", tmp_path).given
    error = refused(read_benchmark, "ego-in-exo", tmp_path / "0")
    assert error.remedy.startswith("pass adlx-charades-ar or adlx-tsu-tc as --benchmark")
    # Before any word about videos.
    for function in (read_benchmark, video_folder):
        assert "gone is not there" in refused(function, "adlx-tsu-tc", tmp_path / "gone").given
    # A byte order mark is no fault.
    path = written(tmp_path / "x/TSU-TC.json", b"\xef\xbb\xbf" + json.dumps([CURRENT]).encode())
    assert len(read_benchmark("adlx-tsu-tc", tmp_path / "x").items) == 1
    written(tmp_path / "x/LEGACY-TSU-TC.json", [OPTIONS])
    assert "holds 2 files of adlx-tsu-tc" in refused(read_benchmark, "adlx-tsu-tc", tmp_path / "x").given
    assert "adlx-tsu-tc, not of adlx-lemma-tc" in refused(read_benchmark, "adlx-lemma-tc", path).given


ADLX = {
    "adlx-charades-ar": "Charades_v1_480", "adlx-charades-desc": "Charades_v1_480", "adlx-lemma-tc": "lemma_cropped",
    "adlx-smarthome-ar": "SH_cropped224x224_better", "adlx-tsu-tc": "ADLMCQ-TC-TSU",
}  # fmt: skip


def test_the_published_folders(tmp_path):
    """`vlm_eval_bench`, as the authors lay it out; the folder itself, the one above it, or the file."""
    for name, value in FILES.items():
        if name != "ego-in-exo":
            written(tmp_path / "adlx" / BENCHMARKS[name].files[0], value[0])
            (tmp_path / "adlx/videos" / ADLX.get(name, "")).mkdir(parents=True, exist_ok=True)
    data = written(tmp_path / "egoperceptionmcq/egoinexoperception.json", [EGO_IN_EXO])
    videos = tmp_path / "egoperceptionmcq/videos"
    written(videos.with_suffix(".zip"), b"")
    assert "unpack videos.zip" in refused(video_folder, "ego-in-exo", tmp_path).remedy
    assert "named videos or keystep_segments" in refused(video_folder, "ego-in-exo", tmp_path).allowed
    videos.mkdir()
    (tmp_path / "egoperceptionmcq/depth_videos").mkdir()
    for place in (tmp_path, data.parent, data):
        assert data_file("ego-in-exo", place) == data and video_folder("ego-in-exo", place) == videos
    for place in (tmp_path, tmp_path / "adlx"):
        for name, folder in {**ADLX, "adlx-tsu-desc": ""}.items():
            assert data_file(name, place) == tmp_path / "adlx" / BENCHMARKS[name].files[0]
            assert video_folder(name, place) == tmp_path / "adlx/videos" / folder
    (tmp_path / "adlx/videos/lemma_cropped").rmdir()
    assert video_folder("adlx-lemma-tc", tmp_path) == tmp_path / "adlx/videos"
    (data.parent / "keystep_segments").mkdir()
    assert "videos and keystep_segments" in refused(video_folder, "ego-in-exo", data).given
    written(data.parent / "all_category_qas.json", [EGO_IN_EXO])
    for place in (tmp_path, data.parent):
        error = refused(read_benchmark, "ego-in-exo", place)
        assert "2 files" in error.given and "all_category_qas.json" in error.given and "the file itself" in error.remedy


def test_long_options_are_read_in_no_time():
    assert numbered_lists("1. ['a'" + " " * 100_000) is None
    assert numbered_lists("1. [" + "'a', " * 50_000 + "'b'] 2. ['c']")["2"] == ["c"]
    assert numbered_lists("1. ['" + "\\" * 100_001) is None


ROWS = (CURRENT, EGO_IN_EXO, EXO_FILE, CHARADES, SMARTHOME, SPANS, OPTIONS, DESCRIBED)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.sampled_from(["A", "1. ['a']", "x_exo1", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("AB1"), inner, max_size=4),
    max_leaves=8,
)


def _rows_of(row):
    """The row with some of its values replaced, and others beside it."""
    changed = st.fixed_dictionaries({}, optional={key: JSON for key in [*row, "id", "start_timestamp"]})
    return changed.map(lambda change: {**row, **change})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(BENCHMARKS)), st.lists(st.one_of(*map(_rows_of, ROWS)), max_size=3), st.integers(0, 2))
def test_nothing_else_is_raised(read, name, value, max_bad):
    try:
        found = read(name, value, max_bad=max_bad)
    except Ego2ExoError as error:
        str(error).encode()
        return
    assert found.items and len({item.id for item in found.items}) == len(found.items)
    assert len({item.row for item in found.items}) + len(found.bad) == found.rows
    for item in found.items:
        assert item.kind == "description" or (item.answer in item.choices and len(item.choices) > 1)


@pytest.fixture
def real_adlx():
    folder = REAL_VIDEOS.parent / "adlx"
    if not folder.is_dir():
        pytest.skip(f"no real files at {folder} (set EGO2EXO_SHARED)")
    return folder


def test_the_real_answers_are_those_of_the_data(real_adlx):
    """Against the files themselves, read without any of our code."""
    rows = json.loads((real_adlx / "LEGACY-Smarthome-AR.json").read_text())
    items = read_benchmark("adlx-smarthome-ar", real_adlx).items
    assert [item.choices[item.answer] for item in items] == [row["ground_truth"] for row in rows.values()]
    rows = json.loads((real_adlx / "LEGACY-Charades-AR.json").read_text())
    items = read_benchmark("adlx-charades-ar", real_adlx).items
    assert [item.choices[item.answer] for item in items] == [", ".join(row["Ground Truth"]) for row in rows]
    assert len(items) == 1814 and len({item.video for item in items}) == 1814


def test_the_examples_of_the_document_are_read(read):
    """In the order of the table of layouts: each fits the layout under whose name it stands."""
    text = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text(encoding="utf-8")
    text = re.sub(r"^\*\*(today|current)\*\*", "", text, flags=re.MULTILINE)
    examples = re.findall(r"^\*\*(.+?)\*\*.*?^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(examples) == len(FILES) == 7
    for title, example in examples:
        name = next(name for name, known in BENCHMARKS.items() if title in [layout.name for layout in known.layouts])
        value = json.loads(example)
        found = read(name, value if next(iter(value)) in ("0", "P02T01") else [value])
        assert found.layout == title and found.items
