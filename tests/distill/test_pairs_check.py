"""`pairs check` finds each kind of fault, and none in pairs without faults."""

import json
import shutil
from dataclasses import replace

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.distill.pairs.check import KINDS, run_check
from llava_ego2exo.distill.pairs.file import read_pairs, write_pairs
from llava_ego2exo.distill.pairs.pair import Pair

from .videos import render


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four segments of two takes, without faults: 2 s, each video with a shade of its own."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        for index, view in enumerate(("ego", "exo1", "exo2")):
            render(folder / f"t{number // 2}_{number}_{view}.mp4", 2, shade=60 * number + 20 * index)
    return folder


@pytest.fixture
def folder(clips, tmp_path):
    return shutil.copytree(clips, tmp_path / "v")


@pytest.fixture
def pairs(folder):
    names = [f"t{number // 2}_{number}" for number in range(4)]
    return [
        Pair(name, folder / f"{name}_ego.mp4", {view: folder / f"{name}_{view}.mp4" for view in ("exo1", "exo2")},
             take=name[:2], split="val" if name[1] == "1" else "train")
        for name in names
    ]  # fmt: skip


def check(pairs, tmp_path, **settings):
    """(kind, segment, view) of each finding, the exit code, and the report; `pairs` may be a file."""
    lines = []
    path = write_pairs(tmp_path / "p.jsonl", pairs) if isinstance(pairs, list) else pairs
    code = run_check(path, lines.append, progress=False, report_to=str(tmp_path / "r.json"), **settings)
    findings = json.loads((tmp_path / "r.json").read_text())["findings"]
    return [(found["kind"], found["segment"], found["view"]) for found in findings], code, "\n".join(lines)


def test_pairs_without_faults(pairs, tmp_path):
    found, code, text = check(pairs, tmp_path, write_clean=str(tmp_path / "c.jsonl"))
    assert (found, code) == ([], 0) and "no fault(s) in 4 pair(s), 12 file(s)" in text
    assert (tmp_path / "c.jsonl").read_text() == (tmp_path / "p.jsonl").read_text()
    assert text.count(" ok ") == len(KINDS)
    for settings, token in (({"tolerance_s": -1}, "--tolerance"), ({"write_clean": str(tmp_path)}, "--write-clean")):
        with pytest.raises(Ego2ExoError, match=token):
            check(pairs, tmp_path, **settings)


def test_exo_videos_of_two_ego_cameras(pairs, folder, tmp_path):
    second = replace(pairs[0], segment="t0_0b", ego=str(render(folder / "b_ego.mp4", 2, shade=7)))
    twice = ("duplicate", "t0_0b")
    found, _, text = check([*pairs, second], tmp_path)
    assert found == [(*twice, "exo1"), (*twice, "exo2")] and text.count("--shared-exo") == 2
    assert check([*pairs, second], tmp_path, shared_exo=True)[:2] == ([], 0)
    # Not another ego camera, or of another take.
    assert check([*pairs, replace(second, ego=pairs[0].ego)], tmp_path, shared_exo=True)[0] == [(*twice, "ego")]
    alone, _, text = check([*pairs, replace(second, take="t9")], tmp_path, shared_exo=True)
    assert alone == [(*twice, "exo1"), (*twice, "exo2")] and "--shared-exo" not in text


def test_files_that_do_not_decode(folder, pairs, tmp_path):
    (folder / "t0_0_exo1.mp4").unlink()
    (folder / "t0_1_ego.mp4").write_bytes(b"no video")
    (folder / "t1_2_exo1.mp4").write_bytes(b"")
    data = bytearray((folder / "t1_3_exo2.mp4").read_bytes())
    middle = data.index(b"mdat") + 200
    data[middle : middle + 400] = b"\xff" * 400
    (folder / "t1_3_exo2.mp4").write_bytes(data)
    whole = render(folder / "t1_3_exo3.mkv", 2, shade=231).read_bytes()
    (folder / "t1_3_exo3.mkv").write_bytes(whole[: len(whole) // 2])  # cut off while it was copied
    pairs[3] = replace(pairs[3], exo={**pairs[3].exo, "exo3": folder / "t1_3_exo3.mkv"})
    found, code, text = check(pairs, tmp_path, write_clean=str(tmp_path / "c.jsonl"))
    names = [("t0_0", "exo1"), ("t0_1", "ego"), ("t1_2", "exo1"), ("t1_3", "exo2")]
    assert found[:4] == [("unreadable", *name) for name in names] and ("t1_3", "exo3") in [one[1:] for one in found]
    assert code == 1 and "exo1.mp4 is not there" in text and "3 of 4 pair(s) kept" in text
    kept = {pair.segment: list(pair.exo) for pair in read_pairs(tmp_path / "c.jsonl")}
    assert kept == {"t0_0": ["exo2"], "t1_2": ["exo2"], "t1_3": ["exo1"]}
    assert check(tmp_path / "c.jsonl", tmp_path)[1] == 0


def test_lengths(folder, pairs, tmp_path):
    render(folder / "t0_0_exo1.mp4", 3.1, shade=201)
    render(folder / "t0_1_ego.mp4", 3.2, shade=202)
    render(folder / "t1_2_exo1.mp4", 2.3, shade=203)
    found, code, _ = check(pairs, tmp_path)
    shorter = [("exo shorter", "t0_1", view) for view in ("exo1", "exo2")]
    assert found == [("ego shorter", "t0_0", "exo1"), *shorter]
    assert code == 1 and len(check(pairs, tmp_path, tolerance_s=0.2)[0]) == 4
    assert check(pairs, tmp_path, tolerance_s=1.3)[1] == 0


def test_segments_outside_their_videos(pairs, tmp_path):
    a, b, c, d = pairs
    parts = [
        Pair("a", a.ego, a.exo, 0.5, 2.9),
        Pair("b", b.ego, b.exo, 0.0, 1.0, -0.5), Pair("c", c.ego, c.exo, 0.5, 1.5, 1.2),
        Pair("d", d.ego, {"exo1": d.exo["exo1"]}, 0.5, 1.5, 0.3), Pair("e", d.ego, d.exo, 2.5, None),
    ]  # fmt: skip
    found, _, _ = check(parts, tmp_path)
    exo = [("range", segment, view) for segment in "bc" for view in ("exo1", "exo2")]
    assert found == [("range", "a", "ego"), *exo, ("range", "e", "ego")]


def test_duplicates_are_by_content_and_part(folder, pairs, tmp_path):
    shutil.copy(folder / "t0_0_ego.mp4", folder / "t0_0_exo2.mp4")
    shutil.copy(folder / "t0_0_exo1.mp4", folder / "t0_1_exo1.mp4")
    found, _, _ = check(pairs, tmp_path)
    assert found == [("duplicate", "t0_0", "exo2"), ("duplicate", "t0_1", "exo1")]
    long = pairs[2]
    a, same, after = (
        Pair(name, long.ego, long.exo, start, start + 1) for name, start in (("a", 0), ("b", 0), ("c", 1))
    )
    assert check([a, after], tmp_path)[1] == 0
    assert check([a, same], tmp_path)[0] == [("duplicate", "b", view) for view in ("ego", "exo1", "exo2")]


def test_leakage_by_take_and_by_video(pairs, tmp_path):
    a, b, c, d = pairs
    leaking = Pair(b.segment, b.ego, b.exo, split="test", take=b.take)
    found, code, _ = check([a, leaking, c, d], tmp_path, write_clean=str(tmp_path / "c.jsonl"))
    assert found == [("leakage", "t0_1", "")] and code == 1
    assert [pair.segment for pair in read_pairs(tmp_path / "c.jsonl")] == ["t0_0", "t1_2", "t1_3"]
    found, _, _ = check([Pair("a", a.ego, a.exo, 0, 1), Pair("b", a.ego, a.exo, 1, 2, split="test")], tmp_path)
    assert {entry[:2] for entry in found} == {("leakage", "b")}


def test_every_kind_of_bad_pair_is_listed_at_once_and_the_clean_file_is_clean(folder, tmp_path):
    render(folder / "long_exo1.mp4", 4, shade=222)

    def line(name, segment=None, **changes):
        return json.dumps({
            "segment": segment or name, "take": segment or name, "ego": f"{name}_ego.mp4",
            "exo": {"exo1": f"{name}_exo1.mp4"}, **changes,
        })  # fmt: skip

    lines = [
        line("t0_0", exo={"exo1": "t0_0_exo1.mp4", "exo2": "long_exo1.mp4"}, take="t0"),
        '{"segment": "no_exo", "ego": "t0_1_ego.mp4"}',
        '{"segment": "no_ego", "exo": {"exo1": "t0_1_exo1.mp4"}}',
        line("t0_1", offset_s=-9.0, start_s=1, end_s=1.5),
        line("t1_2", take="t0", split="test"),
        line("t1_3", "t0_0"),
        "{torn",
        line("t1_3", "gone", exo={"exo1": "gone.mp4"}),
    ]
    (folder / "p.jsonl").write_text("\n".join(lines))
    found, code, text = check(folder / "p.jsonl", tmp_path, write_clean=str(folder / "c.jsonl"))
    assert found == [
        ("line", "line 2", ""), ("line", "line 3", ""), ("line", "line 7", ""), ("segment", "t0_0", ""),
        ("ego shorter", "t0_0", "exo2"), ("range", "t0_1", "exo1"), ("unreadable", "gone", "exo1"),
        ("leakage", "t1_2", ""),
    ]  # fmt: skip
    assert code == 1 and "1 of 8 pair(s) kept" in text and "line 6 repeats it" in text
    assert [(kept.segment, list(kept.exo)) for kept in read_pairs(folder / "c.jsonl")] == [("t0_0", ["exo1"])]
    assert check(folder / "c.jsonl", tmp_path)[:2] == ([], 0)
