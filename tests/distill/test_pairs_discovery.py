"""Names to pairs, takes and splits."""

import os

import pytest

from llava_ego2exo import Ego2ExoError, cli
from llava_ego2exo.distill.pairs.build import assign, build_from_folder, leaks, take_by_pattern
from llava_ego2exo.distill.pairs.discovery import find_pairs
from llava_ego2exo.distill.pairs.file import read_pairs
from llava_ego2exo.distill.pairs.pair import Pair


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def shape(found):
    return {pair.segment: [os.path.basename(path) for path in pair.files.values()] for pair in found.pairs}


def test_keystep_names(tmp_path):
    names = [f"t1_0003_exo{n}.mp4" for n in (1, 10, 2)]
    touch(tmp_path, "t1_0003_ego.mp4", *names, "sub/b_ego.MKV", "sub/b_exo1.webm", "readme.txt", ".c_ego.mp4")
    touch(tmp_path, "d_ego.mp4", "e_exo1.mp4", "e_exo2.mov", "holiday.mp4")
    found = find_pairs(tmp_path)
    assert shape(found) == {
        "t1_0003": ["t1_0003_ego.mp4", "t1_0003_exo1.mp4", "t1_0003_exo2.mp4", "t1_0003_exo10.mp4"],
        "b": ["b_ego.MKV", "b_exo1.webm"],
    }
    assert list(found.unpaired) == ["d", "e"] and [os.path.basename(path) for path in found.other] == ["holiday.mp4"]
    assert all(pair.take == pair.segment for pair in found.pairs)
    with pytest.raises(Ego2ExoError, match=r"2 unpaired.*d: no exo view beside .*; e: no ego view beside.*--skip-unp"):
        build_from_folder(tmp_path)
    assert shape(build_from_folder(tmp_path, skip_unpaired=True)) == shape(found)


@pytest.mark.parametrize(
    ("pattern", "names", "segments", "takes"),
    [
        ("{take}/{segment}_{view}", ["k/a_b_ego.mp4", "k/a_b_exo1.mp4"], ["a_b"], ["k"]),
        ("{view}/{segment}", ["ego/a.mp4", "exo-left/a.avi"], ["a"], ["a"]),
        ("{take}/{take}-{segment}.{view}", ["k/k-1.ego.mp4", "k/k-1.exo1.mp4", "k/m-2.ego.mp4"], ["1"], ["k"]),
        (r"(?P<view>ego|exo)/(?P<segment>(?P<take>P\d+)_\d+)\.mp4", ["ego/P1_2.mp4", "exo/P1_2.mp4"], ["P1_2"], ["P1"]),
    ],
)
def test_patterns(tmp_path, pattern, names, segments, takes):
    found = find_pairs(touch(tmp_path, *names), pattern)
    assert [pair.segment for pair in found.pairs] == segments and [pair.take for pair in found.pairs] == takes


def test_takes_that_count_their_segments_alike(tmp_path):
    touch(tmp_path, *(f"{take}/s1_{view}.mp4" for take in ("t1", "t2") for view in ("ego", "exo1")))
    touch(tmp_path, "t1/s2_ego.mp4", "t1/s2_exo1.mp4", "t2/s3_ego.mp4")
    found = find_pairs(tmp_path, "{take}/{segment}_{view}")
    assert [(pair.segment, pair.take) for pair in found.pairs] == [("t1_s1", "t1"), ("t1_s2", "t1"), ("t2_s1", "t2")]
    assert all(f"/{pair.take}/" in path for pair in found.pairs for path in pair.files.values())
    assert list(found.unpaired) == ["t2_s3"]


def clips(take, *cameras, segment="start0.85598_end33.20377"):
    """Ego-Exo4D's own names."""
    return [f"{take}/{segment}_{camera}.mp4" for camera in cameras]


def test_the_clips_of_ego_exo4d(tmp_path):
    folder = touch(
        tmp_path / "clips_448p",
        *clips("train/georgiatech_covid_07_6", "aria02_214-1", "cam01", "cam02", "aria02_1201-1", "aria02_211-1"),
        *clips("train/iiith_cooking_5", "aria01_214-1", "gp01", "gp10", segment="start1e-05_end12"),
        *clips("val/cmu_bike_1", "aria01", "cam03"),
        *clips("loose_take", "aria01_214-1", "cam01", segment="start2_end3"),
        "val/cmu_bike_1/collage.mp4",
    )  # fmt: skip
    found = find_pairs(folder, "ego-exo4d")
    assert [(pair.take, pair.segment, pair.split, list(pair.exo)) for pair in found.pairs] == [
        ("loose_take", "loose_take_start2_end3", "train", ["cam01"]),
        ("georgiatech_covid_07_6", "georgiatech_covid_07_6_start0.85598_end33.20377", "train", ["cam01", "cam02"]),
        ("iiith_cooking_5", "iiith_cooking_5_start1e-05_end12", "train", ["gp01", "gp10"]),
        ("cmu_bike_1", "cmu_bike_1_start0.85598_end33.20377", "val", ["cam03"]),
    ]
    assert len(found.other) == 3 and all("aria0" in pair.ego for pair in found.pairs)
    # The folder of a split, or of a take, says the same of itself.
    for place, split in ((folder / "val", "val"), (folder / "val/cmu_bike_1", "train")):
        (pair,) = find_pairs(place, "ego-exo4d").pairs
        assert (pair.take, pair.segment, pair.split) == ("cmu_bike_1", "start0.85598_end33.20377", split)
    with pytest.raises(Ego2ExoError, match="--ego-view aria01 with --pattern"):
        find_pairs(folder, "ego-exo4d", "aria01")
    with pytest.raises(Ego2ExoError, match="one of the two"):
        assign(found.pairs, None, "train=1", 0, found.has_splits)
    with pytest.raises(Ego2ExoError, match="is named like --pattern ego-exo4d"):
        find_pairs(touch(tmp_path / "other", "a/b_ego.mp4"), "ego-exo4d")


def test_splits_by_pattern(tmp_path):
    names = [f"{split}/{split}1/s_{view}.mp4" for split in ("train", "test") for view in ("ego", "e")]
    found = find_pairs(folder := touch(tmp_path, *names), "{split}/{take}/{segment}_{view}")
    assert [(pair.take, pair.split) for pair in found.pairs] == [("test1", "test"), ("train1", "train")]
    assert found.has_splits and not find_pairs(folder, "{take}/{segment}/s_{view}").has_splits
    touch(folder, "val/train1/r_ego.mp4", "val/train1/r_e.mp4")
    with pytest.raises(Ego2ExoError, match=r"in several splits: train1 \(train, val\)"):
        assign(find_pairs(folder, "{split}/{take}/{segment}_{view}").pairs, None, None, 0)
    touch(folder, "val/train1/s_f.mp4")
    with pytest.raises(Ego2ExoError, match="found twice: s f: .*/train/train1/s_e.*/val/train1/s_f"):
        find_pairs(folder, "{split}/{take}/{segment}_{view}")
    with pytest.raises(Ego2ExoError, match="split 'dev' is not one of train, val, test"):
        find_pairs(touch(tmp_path / "x", "dev/t/s_ego.mp4", "dev/t/s_e.mp4"), "{split}/{take}/{segment}_{view}")


def test_two_ego_cameras_share_their_exo_videos_if_asked_to(tmp_path, capsys):
    folder = touch(tmp_path / "v", *clips("t1", "aria01_214-1", "aria02_214-1", "cam01", "cam02"))
    touch(folder, *clips("t1", "aria01_214-1", "cam01", segment="start40_end50"))
    with pytest.raises(Ego2ExoError, match=r"1 view.* twice: start.*7 ego: .*aria01.* and .*aria02.*--shared-exo"):
        find_pairs(folder, "ego-exo4d")
    both = ["start0.85598_end33.20377_aria01", "start0.85598_end33.20377_aria02"]
    found = find_pairs(folder, "ego-exo4d", shared_exo=True).pairs
    assert [pair.segment for pair in found] == [*both, "start40_end50"] and {pair.take for pair in found} == {"t1"}
    assert found[0].exo == found[1].exo and "aria02" in found[1].ego and list(found[0].exo) == ["cam01", "cam02"]
    same = r"(?P<take>\w+)/(?P<segment>start.+)_(?P<view>(aria|cam)\d+)(_.*)?"
    assert find_pairs(folder, same, "aria01, aria02", shared_exo=True).pairs == found
    build = ["pairs", "build", "--videos", str(folder), "--pattern", "ego-exo4d", "--out", str(tmp_path / "p.jsonl")]
    assert cli.main([*build, "--shared-exo"]) == 0 and read_pairs(tmp_path / "p.jsonl") == found
    assert "pairs check --pairs" in (said := capsys.readouterr().out) and "--shared-exo" in said
    assert cli.main(["pairs", "build", "--manifest", "m.csv", "--shared-exo", "--out", "x"]) == 1
    assert "--shared-exo with --manifest" in capsys.readouterr().err


def test_ego_view_of_another_name(tmp_path):
    found = find_pairs(touch(tmp_path, "first/a.mp4", "third/a.mp4"), "{view}/{segment}", ego_view="first")
    assert list(found.pairs[0].files) == ["ego", "third"] and "first" in found.pairs[0].ego
    with pytest.raises(Ego2ExoError, match="found twice"):
        find_pairs(touch(tmp_path, "ego/a.mp4"), "{view}/{segment}", ego_view="first")


@pytest.mark.parametrize(
    ("names", "pattern", "token"),
    [
        (["a_ego.mp4", "b/a_ego.mp4", "a_exo1.mp4", "a_exo1.mkv"], None, "2 view.* found twice: a "),
        ([f"{place}_{view}.mp4" for place in ("a/b_c", "a_b/c", "a/c") for view in ("ego", "exo1")],
         "{take}/{segment}_{view}", "segment a_b_c of several takes"),
        (["a:1_ego.mp4", "a:1_exo1.mp4"], None, "cannot be part of a file name"),
        (["a.txt"], None, "no video"), ([], None, "no folder"), (["a_ego.mp4"], "{segment}", r"'segment'"),
        (["a_ego.mp4"], "(?P<segment>a)(?P<view>b", "no regular"), (["a_ego.mp4"], "{segment}_{view}_x", "--pattern"),
    ],
)  # fmt: skip
def test_clashes_faulty_names_and_patterns(tmp_path, names, pattern, token):
    with pytest.raises(Ego2ExoError, match=token):
        find_pairs(touch(tmp_path / "x", *names), pattern)


def test_linked_folders_are_walked_once(tmp_path):
    touch(tmp_path / "real", "a_ego.mp4", "a_exo1.mp4")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/link").symlink_to(tmp_path / "real")
    (tmp_path / "real/up").symlink_to(tmp_path / "set")
    assert list(shape(find_pairs(tmp_path / "set"))) == ["a"]


def made(count, takes):
    return [Pair(f"s{n:03d}", f"/e{n}.mp4", {"exo1": f"/x{n}.mp4"}, take=f"t{n % takes}") for n in range(count)]


def test_takes_by_pattern():
    pairs = [Pair(name, "/e", {"exo1": "/x"}) for name in ("t1_0003", "t2_0001")]
    for pattern in (r"^t\d", r"^(t\d)_", r"(?P<take>t\d)"):
        assert [pair.take for pair in take_by_pattern(pairs, pattern)] == ["t1", "t2"]
    with pytest.raises(Ego2ExoError, match=r"no take in 1 segment\(s\): t2_0001"):
        take_by_pattern(pairs, "t1")


def test_splits_are_by_take_by_share_and_the_same_everywhere():
    pairs = made(60, 20)
    split = assign(pairs, None, "train=0.8,val=0.1,test=0.1", 3)
    assert not leaks(split) and [pair.segment for pair in split] == [pair.segment for pair in pairs]
    takes = {name: sorted({pair.take for pair in split if pair.split == name}) for name in ("train", "val", "test")}
    assert {name: len(names) for name, names in takes.items()} == {"train": 16, "val": 2, "test": 2}
    # The last four of `printf "3\nt%d" N | sha256sum`, sorted: another machine must draw the same.
    assert takes["val"] == ["t17", "t4"] and takes["test"] == ["t13", "t15"]
    again = assign(pairs[::-1], None, "test=0.1,val=0.1,train=0.8", 3)
    assert {pair.segment: pair.split for pair in again} == {pair.segment: pair.split for pair in split}
    few = assign(made(6, 3), None, "train=0.98,val=0.01,test=0.01", 0)
    assert {pair.split for pair in few} == {"train", "val", "test"}  # every share gets a take
    with pytest.raises(Ego2ExoError, match="2 take.* cannot fill 3 splits"):
        assign(made(6, 2), None, "train=0.8,val=0.1,test=0.1", 0)


def test_wrong_shares():
    for text in ("train", "foo=1", "train=0.5", "train=0.5,train=0.5", "train=1.5,val=-0.5", "train=nan"):
        with pytest.raises(Ego2ExoError, match="--split"):
            assign(made(4, 2), None, text, 0)
    with pytest.raises(Ego2ExoError, match="column `split`"):
        assign(made(4, 2), None, "train=1", 0, has_splits=True)
