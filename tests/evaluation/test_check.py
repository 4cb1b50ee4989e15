"""`eval --check`: what it counts adds up, and what is wrong with videos is said."""

import re
import shutil

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.evaluation.check import check

from .rows import CURRENT, EGO_IN_EXO, FILES, SPANS, written


def table(text):
    """category, view -> numbers."""
    lines = text.split("\n\n")[1].splitlines()[2:]
    return {tuple(line.split()[:-2]): [int(number) for number in line.split()[-2:]] for line in lines}


def test_every_benchmark_has_its_table(tmp_path):
    for name, values in FILES.items():
        checked = check(name, written(tmp_path / f"{name}.json", values[0]))
        assert checked.faults == [] and checked.text.endswith("no faults found")
        assert sum(questions for questions, _ in table(str(checked)).values()) == (3 if "charades-desc" in name else 1)
        assert ("options a question" in checked.text) == (not name.endswith("desc"))


def test_counts_of_categories_views_and_keys(tmp_path):
    rows = [{**EGO_IN_EXO, "question": str(n), "category_name": "Hands" if n < 3 else "Objects"} for n in range(4)]
    rows[3] |= {"video_filename": "t_exo1", "answer_choices": {"A": "x", "B": "y"}, "split": 1}
    checked = check("ego-in-exo", written(tmp_path / "a.json", rows), views=("exo", "ego"))
    assert table(checked.text) == {
        (category, view): [count, 1] for category, count in (("Hands", 3), ("Objects", 1)) for view in ("exo", "ego")
    }
    assert "8 question(s) about 4 video(s)" in checked.text
    assert "questions a video: 1 to 3, 2.0 on average" in checked.text
    assert "options a question: 2 (2), 3 (6)" in checked.text
    assert "right key: B 100.0%" in checked.text
    assert "right by chance: 37.5%; by always answering B: 100.0%" in checked.text
    assert "keys that are not read (rows): split (1)" in checked.text


def test_rows_left_out_are_named(tmp_path):
    path = written(tmp_path / "a.json", [CURRENT, {**CURRENT, "question": 5}])
    assert "left out: 1 malformed row(s)\n  row 1: question is a number" in check("adlx-tsu-tc", path, max_bad=1).text
    with pytest.raises(Ego2ExoError, match="row 1: question is a number"):
        check("adlx-tsu-tc", path)


def test_missing_videos_are_faults(tmp_path):
    rows = [{**CURRENT, "video_filename": f"{n}.mp4"} for n in range(40)] + [
        {**CURRENT, "question": "x", "video_filename": "7.mp4"}
    ]
    path = written(tmp_path / "a.json", rows)
    (tmp_path / "v").mkdir()
    (tmp_path / "v/0.mp4").touch()
    checked = check("adlx-tsu-tc", path, tmp_path / "v")
    assert len(checked.faults) == 39
    assert "7.mp4 is not there (2 question(s), the first in a.json, row 7)" in checked.faults
    assert f"videos in {tmp_path / 'v'}: 1 there, 39 missing (40 question(s))" in checked.text
    assert checked.text.endswith("  and 19 more\n39 fault(s); the videos were not decoded: add --probe")
    few = check("adlx-tsu-tc", path, tmp_path / "v", limit=8)
    assert "8 question(s) about 8 video(s)" in few.text and len(few.faults) == 7
    with pytest.raises(Ego2ExoError, match="nowhere is not there"):
        check("adlx-tsu-tc", path, tmp_path / "nowhere")


def test_videos_are_decoded(tmp_path, real_videos):
    pytest.importorskip("av")
    folder = tmp_path / "v"
    folder.mkdir()
    for name, file in (("1", "xU25MMA2N4aVtYay.mp4"), ("2", "corrupted.mp4"), ("3", "flipping_a_pancake.mkv")):
        shutil.copy(real_videos / file, (folder / name).with_suffix((real_videos / file).suffix))
    rows = {n: {**SPANS, "video_id": n, "start_timestamp": 0, "end_timestamp": end} for n, end in
            (("1", 1), ("2", 1), ("3", 1000))}  # fmt: skip
    checked = check("adlx-lemma-tc", written(tmp_path / "a.json", rows), folder, probe=True, workers=2, progress=False)
    assert "decoded whole: 3 file(s), 2 fault(s)" in checked.text
    assert re.search(r"2\.mp4 does not decode", checked.faults[0])
    assert re.search(r"3\.mkv ends at .* s, before the clip of a.json, row '3' at 1000.00 s", checked.faults[1])
