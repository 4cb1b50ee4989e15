"""`pairs check` finds each kind of fault, and nothing in pairs that have none."""

import json
import os
import shutil

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.cli import main
from llava_ego2exo.distill.check import run_check
from llava_ego2exo.distill.findings import KINDS, check_pairs, clean
from llava_ego2exo.distill.pairs.file import Pair, read_pairs, write_pairs
from llava_ego2exo.distill.teach.store import Answer, write_answers
from llava_ego2exo.video.limits import VideoLimits
from llava_ego2exo.video.probe import Probe, probe, probe_files

from ..decoders import failing_decoder
from .videos import render


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four segments of two takes, all right: 2 s, each video with a shade of its own."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        for index, view in enumerate(("ego", "exo1", "exo2")):
            render(folder / f"t{number // 2}_{number}_{view}.mp4", 2, shade=60 * number + 20 * index)
    return folder


def copied(clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / "v")
    names = [f"t{number // 2}_{number}" for number in range(4)]
    pairs = [
        Pair(name, folder / f"{name}_ego.mp4", {view: folder / f"{name}_{view}.mp4" for view in ("exo1", "exo2")},
             take=name[:2], split="val" if name[1] == "1" else "train")
        for name in names
    ]  # fmt: skip
    return folder, pairs


def check(pairs, tmp_path, **settings):
    """Kinds of faults with their segments and views, the exit code, and the report."""
    lines = []
    write_pairs(tmp_path / "p.jsonl", pairs)
    code = run_check(tmp_path / "p.jsonl", lines.append, progress=False, report_to=str(tmp_path / "r.json"), **settings)
    findings = json.loads((tmp_path / "r.json").read_text())["findings"]
    return [(found["kind"], found["segment"], found["view"]) for found in findings], code, "\n".join(lines)


def test_good_pairs_have_no_fault(clips, tmp_path):
    found, code, text = check(copied(clips, tmp_path)[1], tmp_path, write_clean=str(tmp_path / "c.jsonl"))
    assert (found, code) == ([], 0) and "4 pair(s), 12 file(s): nothing is wrong" in text
    assert (tmp_path / "c.jsonl").read_text() == (tmp_path / "p.jsonl").read_text()
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("train", "val"))}
    assert rows == {"train": ["1", "2", "4", "0.001"], "val": ["1", "2", "4", "0.001"]}
    assert all(any(line.startswith(f"{kind} ") and " ok " in line for line in text.splitlines()) for kind in KINDS)


def test_files_that_do_not_decode(clips, tmp_path):
    folder, pairs = copied(clips, tmp_path)
    (folder / "t0_0_exo1.mp4").unlink()
    (folder / "t0_1_ego.mp4").write_bytes(b"no video")
    (folder / "t1_2_exo1.mp4").write_bytes(b"")
    data = bytearray((folder / "t1_3_exo2.mp4").read_bytes())
    middle = data.index(b"mdat") + 200
    data[middle : middle + 400] = b"\xff" * 400
    (folder / "t1_3_exo2.mp4").write_bytes(data)
    found, code, text = check(pairs, tmp_path, write_clean=str(tmp_path / "c.jsonl"))
    names = [("t0_0", "exo1"), ("t0_1", "ego"), ("t1_2", "exo1"), ("t1_3", "exo2")]
    assert [entry for entry in found if entry[0] != "unpaired"] == [("unreadable", *name) for name in names]
    assert code == 1 and "exo1.mp4 is not there" in text and "ego.mp4 does not decode: " in text
    kept = {pair.segment: list(pair.exo) for pair in read_pairs(tmp_path / "c.jsonl")}
    assert kept == {"t0_0": ["exo2"], "t1_2": ["exo2"], "t1_3": ["exo1"]}
    assert "c.jsonl: 3 of 4 pair(s) kept, 3 of them with fewer views" in text
    assert check(read_pairs(tmp_path / "c.jsonl"), tmp_path)[1] == 0


def test_a_file_cut_off_while_copied(tmp_path):
    with_index_first = render(tmp_path / "a.mkv", 4)
    data = with_index_first.read_bytes()
    whole = probe(str(with_index_first))
    with_index_first.write_bytes(data[: len(data) // 2])
    torn = probe(str(with_index_first))
    assert whole.frames == 40 and (torn.error or torn.frames < 40)


def test_unequal_lengths(clips, tmp_path):
    folder, pairs = copied(clips, tmp_path)
    render(folder / "t0_0_exo1.mp4", 3.1, shade=201)
    render(folder / "t0_1_ego.mp4", 3.2, shade=202)
    render(folder / "t1_2_exo1.mp4", 2.3, shade=203)
    found, code, text = check(pairs, tmp_path)
    assert code == 1 and found == [("ego shorter", "t0_0", "exo1"), ("exo shorter", "t0_1", "exo1"),
                                   ("exo shorter", "t0_1", "exo2")]  # fmt: skip
    assert "its ego ends at 2.00 s of exo1, which has 3.10 s" in text
    assert len(check(pairs, tmp_path, tolerance_s=0.2)[0]) == 4 and check(pairs, tmp_path, tolerance_s=1.3)[1] == 0


def test_segments_outside_their_videos(clips, tmp_path):
    folder, (a, b, c, d) = copied(clips, tmp_path)
    pairs = [
        Pair("a", a.ego, a.exo, 0.5, 2.9),
        Pair("b", b.ego, b.exo, 0.0, 1.0, -0.5), Pair("c", c.ego, c.exo, 0.5, 1.5, 1.2),
        Pair("d", d.ego, {"exo1": d.exo["exo1"]}, 0.5, 1.5, 0.3), Pair("e", d.ego, d.exo, 2.5, None),
    ]  # fmt: skip
    found, _, text = check(pairs, tmp_path)
    assert found == [
        ("range", "a", "ego"),
        *(("range", s, v) for s in "bc" for v in ("exo1", "exo2")),
        ("range", "e", "ego"),
    ]
    assert "0.5 to 2.9 s lies outside its ego video of 2.00 s" in text
    assert "begins at -0.5 s of exo1" in text and "ends at 2.70 s of exo1, which has only 2.00 s" in text


def test_unpaired_files_beside_and_below(clips, tmp_path):
    folder, pairs = copied(clips, tmp_path)
    render(folder / "x_ego.mp4", 1, shade=211)
    render(folder / "y_exo1.mp4", 1, shade=212)
    found, code, text = check(pairs, tmp_path)
    assert found == [("unpaired", "x", ""), ("unpaired", "y", "")] and code == 1
    assert "x_ego.mp4 has no exo view beside it" in text and "y_exo1.mp4 has no ego view beside it" in text
    assert check(pairs, tmp_path, skip_unpaired=True)[1] == 0
    render(folder / "deep/z_exo1.mp4", 1, shade=213)
    assert len(check(pairs, tmp_path, videos=str(folder))[0]) == 3


def test_duplicates_by_content(clips, tmp_path):
    folder, pairs = copied(clips, tmp_path)
    shutil.copy(folder / "t0_0_ego.mp4", folder / "t0_0_exo2.mp4")
    shutil.copy(folder / "t0_0_exo1.mp4", folder / "t0_1_exo1.mp4")
    found, _, text = check(pairs, tmp_path)
    assert found == [("duplicate", "t0_0", "exo2"), ("duplicate", "t0_1", "exo1")]
    assert "exo2 is the same video as ego" in text and "exo1 is the same video as t0_0 exo1" in text


def test_one_long_video_may_hold_many_segments(clips, tmp_path):
    _, (a, *_) = copied(clips, tmp_path)
    found, code, _ = check([Pair("a", a.ego, a.exo, 0, 1), Pair("b", a.ego, a.exo, 1, 2)], tmp_path)
    assert (found, code) == ([], 0)
    found, _, _ = check([Pair("a", a.ego, a.exo, 0, 1), Pair("b", a.ego, a.exo, 0, 1)], tmp_path)
    assert found == [("duplicate", "b", view) for view in ("ego", "exo1", "exo2")]
    found, _, _ = check([Pair("a", a.ego, a.exo, 0, 1), Pair("b", a.ego, a.exo, 1, 2, split="test")], tmp_path)
    assert {entry[:2] for entry in found} == {("leakage", "b")}


def test_a_take_in_two_splits(clips, tmp_path):
    _, (a, b, c, d) = copied(clips, tmp_path)
    leaking = Pair(b.segment, b.ego, b.exo, split="test", take=b.take)
    found, code, text = check([a, leaking, c, d], tmp_path, write_clean=str(tmp_path / "c.jsonl"))
    assert found == [("leakage", "t0_1", "")] and code == 1 and "take t0 is in test here and in train elsewhere" in text
    assert [pair.segment for pair in read_pairs(tmp_path / "c.jsonl")] == ["t0_0", "t1_2", "t1_3"]


def test_another_frame_rate_is_only_a_note(clips, tmp_path):
    folder, pairs = copied(clips, tmp_path)
    render(folder / "t0_0_exo1.mp4", 2, rate=15, shade=221)
    found, code, text = check(pairs, tmp_path)
    assert found == [("rate", "t0_0", "exo1")] and code == 0 and "1 (note)" in text


def test_clean_drops_the_view_or_the_pair():
    probes = {path: Probe(duration_s=2, rate=10, frames=20, sha256=path) for path in ("/e", "/x", "/y", "/f")}
    probes["/bad"] = Probe(error="does not decode")
    pairs = [
        Pair("a", "/e", {"exo1": "/bad", "exo2": "/x"}),
        Pair("b", "/bad", {"exo1": "/y"}),
        Pair("c", "/f", {"exo1": "/bad"}),
    ]
    assert [(pair.segment, list(pair.exo)) for pair in clean(pairs, check_pairs(pairs, probes))] == [("a", ["exo2"])]


@pytest.mark.fault
def test_a_decoder_that_hangs_or_crashes_stops_nothing(clips, tmp_path, monkeypatch, fault_table):
    good = str(clips / "t0_0_ego.mp4")
    failing_decoder(monkeypatch)
    paths = [str(shutil.copy(good, tmp_path / name)) for name in ("does-hang", "does-crash")]
    probes = probe_files([*paths, good, str(tmp_path)], workers=1, limits=VideoLimits(2), progress=False)
    assert list(probes) == [*paths, good, str(tmp_path)]
    told = ("within 2 s", "crashes the decoder (exit code -11)")
    survived = sum(text in probes[path].error for path, text in zip(paths, told, strict=True))
    assert not probes[good].error and probes[good].frames == 20 and probes[str(tmp_path)].error == "is a folder"
    fault_table("decoder hangs or crashes: `pairs check` names the file", len(paths), survived)


def test_what_a_decoder_prints_does_not_reach_the_answers(real_videos):
    probes = probe_files([str(real_videos / name) for name in sorted(os.listdir(real_videos))], progress=False)
    errors = {os.path.basename(path): bool(seen.error) for path, seen in probes.items()}
    assert errors == {"corrupted.mp4": True, "flipping_a_pancake.mkv": False, "xU25MMA2N4aVtYay.mp4": False}
    frames = [seen.frames for seen in probes.values() if not seen.error]
    assert frames == [310, 96]


def test_real_videos_from_build_to_check(real_videos, tmp_path, capsys):
    names = {"flipping_a_pancake.mkv": ["t1_1_ego.mkv"], "xU25MMA2N4aVtYay.mp4": ["t1_1_exo1.mp4", "t2_1_ego.mp4"],
             "corrupted.mp4": ["t2_1_exo1.mp4"]}  # fmt: skip
    for source, targets in names.items():
        for target in targets:
            shutil.copy(real_videos / source, tmp_path / target)
    out = str(tmp_path / "pairs.jsonl")
    assert main(["pairs", "build", "--videos", str(tmp_path), "--out", out, "--take-pattern", r"^t\d"]) == 0
    assert main(["pairs", "check", "--pairs", out]) == 1
    text = capsys.readouterr().out
    assert "t2_1: exo1" in text and "corrupted" not in text and "t2_1_exo1.mp4 does not decode: Invalid data" in text
    assert "its ego ends" not in text and "ends at 10.33 s of exo1, which has only 3.20 s" in text


def test_wrong_settings(clips, tmp_path):
    _, pairs = copied(clips, tmp_path)
    path = write_pairs(tmp_path / "p.jsonl", pairs)
    for settings, message in (
        ({"tolerance_s": -1}, "--tolerance -1"), ({"workers": -1}, "--workers -1"),
        ({"pattern": "{segment}_{view}"}, "--videos"), ({"videos": "/nowhere"}, "no folder"),
        ({"write_clean": str(tmp_path)}, "--write-clean .* is a folder"),
        ({"report_to": str(tmp_path / "p.jsonl/r.json")}, "--report .* is not a writable folder"),
    ):  # fmt: skip
        with pytest.raises(Ego2ExoError, match=message):
            run_check(path, print, progress=False, **settings)


def lines_of(path, *records):
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in records))
    return path


def run(path, tmp_path, **settings):
    lines = []
    code = run_check(path, lines.append, progress=False, report_to=str(tmp_path / "r.json"), **settings)
    findings = json.loads((tmp_path / "r.json").read_text())["findings"]
    return [(found["kind"], found["segment"], found["view"]) for found in findings], code, "\n".join(lines)


@pytest.mark.fault
def test_every_kind_of_bad_pair_is_listed_at_once_and_the_clean_list_is_clean(clips, tmp_path, fault_table):
    folder = shutil.copytree(clips, tmp_path / "v")
    render(folder / "long_exo1.mp4", 4, shade=222)

    def pair(name, segment=None, **changes):
        return {
            "segment": segment or name, "take": segment or name, "ego": f"{name}_ego.mp4",
            "exo": {"exo1": f"{name}_exo1.mp4"}, **changes,
        }  # fmt: skip

    path = lines_of(
        folder / "p.jsonl",
        pair("t0_0", exo={"exo1": "t0_0_exo1.mp4", "exo2": "long_exo1.mp4"}, take="t0"),
        {"segment": "no_exo", "ego": "t0_1_ego.mp4"},
        {"segment": "no_ego", "exo": {"exo1": "t0_1_exo1.mp4"}},
        pair("t0_1", offset_s=-9.0, start_s=1, end_s=1.5),
        pair("t1_2", take="t0", split="test"),
        pair("t1_3", "t0_0"),
        "{torn",
        pair("t1_3", "gone", exo={"exo1": "gone.mp4"}),
    )
    found, code, text = run(path, tmp_path, skip_unpaired=True, write_clean=str(folder / "c.jsonl"))
    wanted = [
        ("line", "line 7", ""), ("segment", "t0_0", ""),
        ("unreadable", "gone", "exo1"), ("range", "t0_1", "exo1"), ("ego shorter", "t0_0", "exo2"),
        ("unpaired", "no_exo", ""), ("unpaired", "no_ego", ""), ("leakage", "t1_2", ""),
    ]  # fmt: skip
    assert code == 1 and "8 fault(s)" in text and "1 of 8 pair(s) kept, 1 of them with fewer views" in text
    assert "line 6 repeats the name (lines 1, 6)" in text
    assert [(kept.segment, list(kept.exo)) for kept in read_pairs(folder / "c.jsonl")] == [("t0_0", ["exo1"])]
    assert run(folder / "c.jsonl", tmp_path, skip_unpaired=True)[:2] == ([], 0)
    fault_table("bad pairs, found at once by pairs check", len(wanted), sum(one in found for one in wanted))
    assert found == wanted


@pytest.mark.fault
def test_answers_that_nobody_should_train_on(clips, tmp_path, fault_table):
    _, pairs = copied(clips, tmp_path)
    write_pairs(tmp_path / "p.jsonl", pairs)

    def answer(number, **changes):
        return Answer(**{
            "key": f"{number:032x}", "segment": f"t{number // 2}_{number}", "split": "train", "kind": "temporal",
            "query": "What?", "answer": "She pours water.", "flags": (), "tokens": 5, "video": "", "start_s": None,
            "end_s": None, "teacher": "t", "settings": {}, **changes,
        })  # fmt: skip

    write_answers(tmp_path / "a", [answer(0), answer(1), answer(2), answer(3)])
    assert run(tmp_path / "p.jsonl", tmp_path, answers=str(tmp_path / "a"))[:2] == ([], 0)
    bad = [answer(0, flags=("cut",)), answer(1, answer=" ", flags=()), answer(2, flags=("empty",)), answer(0, kind="x")]
    write_answers(tmp_path / "a", bad)
    found, code, text = run(
        tmp_path / "p.jsonl", tmp_path, answers=str(tmp_path / "a"), write_clean=str(tmp_path / "c.jsonl"), shown=9
    )
    wanted = ["was cut by the length limit", "is empty", "is empty", "no answer of the kind(s) temporal, x"]
    assert code == 1 and "0 of 4 pair(s) kept" in text and {kind for kind, *_ in found} == {"answer"}
    fault_table(
        "answers that are empty, cut or missing, found by pairs check", len(wanted), sum(w in text for w in wanted)
    )
    write_answers(tmp_path / "a", [answer(0, flags=("cut",)), answer(1), answer(2), answer(3)])
    command = ["pairs", "check", "--pairs", str(tmp_path / "p.jsonl"), "--answers", str(tmp_path / "a")]
    assert main([*command, "--write-clean", str(tmp_path / "c.jsonl")]) == 1
    assert [pair.segment for pair in read_pairs(tmp_path / "c.jsonl")] == ["t0_1", "t1_2", "t1_3"]
    assert main(["pairs", "check", "--pairs", str(tmp_path / "c.jsonl"), *command[4:]]) == 0
