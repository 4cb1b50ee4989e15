"""A download of Ego-Exo4D in miniature: its own file formats and layout, with rendered videos."""

import json
import shutil

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.cli import main
from llava_ego2exo.distill.pairs.egoexo4d import Filters, camera_files, read_takes, view_names
from llava_ego2exo.distill.pairs.file import read_pairs

from .videos import numbers, render

VIDEOS = "frame_aligned_videos/downscaled/448"


def stream(name, **more):
    return {"clip_uid": "u", "relative_path": name and f"frame_aligned_videos/{name}.mp4", **more}


def take(name, uid, exo=("cam01", "cam03"), aria="aria01", **more):
    """An entry of takes.json: every stream of the glasses, the exo cameras, the two collages."""
    ids = {"rgb": "214-1", "slam-left": "1201-1", "slam-right": "1201-2", "et": "211-1"}
    videos = {aria: {key: stream(f"{aria}_{number}", stream_id=number) for key, number in ids.items()}}
    videos |= {camera: {"0": stream(camera, cam_id=camera)} for camera in exo}
    videos |= {"collage": {"0": {"relative_path": "ego_preview.mp4"}}, "best_exo": {"0": {"relative_path": None}}}
    cameras = [{"cam_id": aria, "is_ego": True}, *({"cam_id": camera, "is_ego": False} for camera in exo)]
    return {
        "root_dir": f"takes/{name}", "take_name": name, "take_uid": uid, "is_dropped": False, "best_exo": exo[-1],
        "capture": {"cameras": cameras}, "frame_aligned_videos": videos, **more,
    }  # fmt: skip


def entry(name, uid, *times, scenario="Bike Repair"):
    steps = [{"start_time": start, "end_time": end, "step_id": 1, "step_name": "n"} for start, end in times]
    return {"take_uid": uid, "take_name": name, "scenario": scenario, "segments": steps}


def keystep(*entries):
    return {"taxonomy": {}, "vocabulary": {}, "annotations": {each["take_uid"]: each for each in entries}}


def write(root, takes, train, val=None):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "takes.json").write_text(json.dumps(takes))
    (root / "annotations/keystep_train.json").write_text(json.dumps(train))
    if val:
        (root / "annotations/keystep_val.json").write_text(json.dumps(val))
    return root


@pytest.fixture(scope="module")
def whole_download(tmp_path_factory):
    """Three annotated takes: one whole, one whose cam03 is missing, one without any video; and one unknown."""
    takes = [take("cmu_bike01_2", "u1"), take("fair_cooking_05_4", "u2", aria="aria02"), take("sfu_covid_1_2", "u3")]
    train = keystep(
        entry("cmu_bike01_2", "u1", (0.4, 1.2), (1.5, 2.5)),
        entry("sfu_covid_1_2", "u3", (0, 1)),
        entry("gone_1", "u9", (0, 1)),
    )
    val = keystep(entry("fair_cooking_05_4", "u2", (0.0, 0.8), (1.0, 3.0), scenario="Cooking Pasta"))
    root = write(tmp_path_factory.mktemp("ee4d"), takes, train, val)
    for name, files in (("cmu_bike01_2", ("aria01_214-1", "aria01_1201-1", "cam01", "cam03")),
                        ("fair_cooking_05_4", ("aria02_214-1", "cam01"))):  # fmt: skip
        for shade, file in enumerate(files):
            render(root / "takes" / name / VIDEOS / f"{file}.mp4", 3, shade=40 * shade)
    return root


@pytest.fixture
def download(whole_download, tmp_path):
    return shutil.copytree(whole_download, tmp_path / "ee4d")


def test_segments_views_splits_and_what_is_missing(download):
    takes = read_takes(download)
    assert [(pair.segment, pair.take, pair.split, list(pair.exo)) for pair in takes.pairs] == [
        ("cmu_bike01_2_0000", "cmu_bike01_2", "train", ["exo1", "exo3"]),
        ("cmu_bike01_2_0001", "cmu_bike01_2", "train", ["exo1", "exo3"]),
        ("fair_cooking_05_4_0000", "fair_cooking_05_4", "val", ["exo1"]),
        ("fair_cooking_05_4_0001", "fair_cooking_05_4", "val", ["exo1"]),
    ]
    first = takes.pairs[0]
    folder = download / "takes/cmu_bike01_2" / VIDEOS
    assert first.ego == str(folder / "aria01_214-1.mp4") and first.exo["exo3"] == str(folder / "cam03.mp4")
    assert (first.start_s, first.end_s, first.offset_s) == (0.4, 1.2, 0.0)
    cam03 = str(download / "takes/fair_cooking_05_4" / VIDEOS / "cam03.mp4")
    assert takes.missing[cam03] == "u2" and sorted(takes.missing.values()) == ["u2", "u3", "u3", "u3"]
    assert takes.unknown == ["gone_1 (u9)"] and takes.faults == []


def test_filters(download):
    def segments(**filters):
        return [f"{pair.segment} {','.join(pair.exo)}" for pair in read_takes(download, Filters(**filters)).pairs]

    assert segments(views="best") == ["cmu_bike01_2_0000 exo3", "cmu_bike01_2_0001 exo3"]
    assert segments(views=frozenset({"cam01"}), scenarios=frozenset({"Cooking Pasta"}), min_s=1) == [
        "fair_cooking_05_4_0001 exo1"
    ]
    assert segments(takes=frozenset({"cmu_bike01_2"}), max_s=0.9) == ["cmu_bike01_2_0000 exo1,exo3"]
    for filters, token in (
        ({"takes": {"nope", "cmu_bike01_2"}}, "--takes.* nope"),
        ({"views": {"gp01"}}, "cam01, cam03"),
    ):  # fmt: skip
        with pytest.raises(Ego2ExoError, match=token):
            segments(**{name: frozenset(values) for name, values in filters.items()})


def test_faulty_segments_are_listed_and_the_rest_is_kept(download):
    good = entry("cmu_bike01_2", "u1", (0, 1), (2, 1), (None, 3), (-1, 2))
    good["segments"].append("text")
    faulty = take("x", "u5", exo=("best_exo",))
    write(download, [take("cmu_bike01_2", "u1"), faulty], keystep(good, entry("x", "u5", (0, 1))))
    takes = read_takes(download, Filters(min_s=float("-inf")))
    assert [pair.segment for pair in takes.pairs] == ["cmu_bike01_2_0000"] and len(takes.faults) == 5
    assert "end_s 1 is not after start_s 2" in "\n".join(takes.faults)


def test_cameras():
    assert view_names(["cam01", "gp01", "mobile"]) == {"cam01": "exo1", "gp01": "exo2", "mobile": "exo3"}
    # A GoPro on the head beside the glasses: the glasses are the ego view, and it is no exo view.
    odd = take("t", "u", exo=("cam01", "cam02"))
    odd["capture"]["cameras"][1]["is_ego"] = True
    assert camera_files(odd) == (["aria01_214-1.mp4", "cam01.mp4"], {"cam02": "cam02.mp4"})
    assert camera_files({"take_name": "t"}) == ([], {})


@pytest.mark.parametrize(
    ("file", "content", "token"),
    [
        ("takes.json", '[{"take_uid": 1}]', "not a list of takes"),
        ("takes.json", None, "takes.json cannot be read"),
        ("annotations/keystep_train.json", '{"annotations": {"u": {"take_name": "x"}}}', "not in the format"),
        ("annotations/keystep_val.json", json.dumps(keystep(entry("a", "u1", (0, 1)))), "both annotation files: u1"),
    ],
)
def test_files_in_another_format(download, file, content, token):
    (download / file).unlink() if content is None else (download / file).write_text(content)
    with pytest.raises(Ego2ExoError, match=token):
        read_takes(download)


def test_nothing_to_read(tmp_path):
    root = write(tmp_path, [take("a_1", "u1")], keystep(entry("a_1", "u1", (0, 1))))
    with pytest.raises(Ego2ExoError, match=r"no pair in .*3 video\(s\) missing: .*egoexo -o ROOT --parts"):
        read_takes(root)


def test_command_cuts_resumes_and_lists(download, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["pairs", "egoexo4d", "--root", str(download), "--out", str(out), "--workers", "1"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "4 video(s) missing" in text and "not in takes.json: gone_1 (u9)" in text and "10 cut(s) made" in text
    pairs = read_pairs(out / "pairs.jsonl")
    assert {pair.split for pair in pairs} == {"train", "val"} and all(pair.end_s is None for pair in pairs)
    assert numbers(out / "cmu_bike01_2_0000_exo3.mp4") == list(range(4, 12))
    listing = (out / "missing.txt").read_text().splitlines()
    assert listing[1].endswith("--uids u3 u2") and len(listing) == 6
    assert main(["pairs", "check", "--pairs", str(out / "pairs.jsonl")]) == 0

    render(download / "takes/fair_cooking_05_4" / VIDEOS / "cam03.mp4", 3, shade=150)
    assert main(command) == 0
    assert "2 cut(s) made, 10 kept" in capsys.readouterr().out
    (out / "missing.txt").unlink()
    assert main([*command, "--no-cut", "--takes", "cmu_bike01_2", "--split", "test=1"]) == 0
    pairs = read_pairs(out / "pairs.jsonl")
    assert [(pair.split, pair.start_s) for pair in pairs] == [("test", 0.4), ("test", 1.5)]
    assert not (out / "missing.txt").exists()


def test_build_command_with_manifest_and_patterns(tmp_path, capsys):
    for name in ("k1/a/ego.mp4", "k1/a/cam1.mp4", "k2/b/ego.mp4", "k2/b/cam1.mp4"):
        render(tmp_path / "v" / name, 0.5)
    out = str(tmp_path / "p.jsonl")
    build = ["pairs", "build", "--out", out, "--videos", str(tmp_path / "v")]
    assert main([*build, "--pattern", "{take}/{segment}/{view}", "--split", "train=0.5,test=0.5", "--seed", "1"]) == 0
    assert {pair.take: pair.split for pair in read_pairs(out)}.keys() == {"k1", "k2"}
    manifest = tmp_path / "m.csv"
    manifest.write_text("segment,ego,exo1,split\na,k1/a/ego.mp4,k1/a/cam1.mp4,val\n")
    assert main([*build, "--manifest", str(manifest)]) == 0 and read_pairs(out)[0].split == "val"
    manifest.write_text("segment,ego,exo1\na,k1/a/ego.mp4,k1/a/no.mp4\nb,x.mp4,y.mp4\n")
    before = (tmp_path / "p.jsonl").read_bytes()
    assert main([*build, "--manifest", str(manifest)]) == 1
    assert "3 video(s) of the pairs are not there" in capsys.readouterr().err
    assert main([*build, "--manifest", str(manifest), "--pattern", "x"]) == 1
    assert (tmp_path / "p.jsonl").read_bytes() == before
