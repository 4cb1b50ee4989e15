"""Videos: found by the data's names and nothing else; what is missing or fits twice is said."""

import os
from dataclasses import replace

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.evaluation.items import Item
from llava_ego2exo.evaluation.videos import find_videos


def items(*names):
    return [Item(f"i:{n}", "b", "c", "", name, "q", source=f"f, row {n}") for n, name in enumerate(names)]


@pytest.fixture
def folder(tmp_path):
    """Makes empty files below a folder."""

    def make(*names):
        for name in names:
            path = tmp_path / "v" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "v"

    return make


def paths(found, folder):
    return [os.path.relpath(item.path, folder) if item.path else None for item in found.items]


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("a.mp4", ["x/y/a.mp4"], "x/y/a.mp4"),
        ("a.mp4", ["a.MP4", "a.mkv"], "a.MP4"),
        ("x/a", ["x/a.mp4", "y/a.mp4", "z/x/a.mp4"], "x/a.mp4"),
        ("x/a.mp4", ["deep/x/a.mp4", "deep/y/a.mp4"], "deep/x/a.mp4"),
        ("v/x/a.mp4", ["x/a.mp4", "y/a.mp4"], "x/a.mp4"),
        ("w/x/a.mp4", ["x/a.mp4", "y/a.mp4"], None),
        ("Walk.Fast_p1", ["Walk.Fast_p1.mp4", "Walk.mp4"], "Walk.Fast_p1.mp4"),
        ("/data/set/mp4/a.mp4", ["x/a.mp4", "y/b.mp4"], "x/a.mp4"),
        ("x\\a.mp4", ["x/a.mp4", "y/a.mp4"], "x/a.mp4"),
        ("x/a.mp4", ["flat/a.mp4", "flat/b.mp4"], "flat/a.mp4"),
        ("a.mp4", [".a.mp4", ".x/a.mp4", "a.txt", "a", "b.mp4"], None),
    ],
)
def test_names(folder, name, files, expected):
    place = folder(*files)
    found = find_videos(items(name), place)
    assert paths(found, place) == [expected]
    assert found.missing == (found.items if expected is None else [])


def test_a_clip_of_another_video_is_never_taken_and_items_keep_their_order(folder):
    """TSU-TC's names differ by their folders alone."""
    place = folder("P2/T1/clips/clip_3.mp4")
    asked = items("P1/T1/clips/clip_3.mp4", "P2/T1/clips/clip_3.mp4", "/d/P1/clip_3.mp4", "/d/P3/clip_3.mp4")
    found = find_videos(asked, str(place))
    assert paths(found, place) == [None, "P2/T1/clips/clip_3.mp4", None, None]
    assert [item.source for item in found.items] == [item.source for item in asked]
    assert [item.video for item in found.missing] == [asked[n].video for n in (0, 2, 3)]


def test_two_files_for_one_name_are_refused(folder):
    place = folder("x/a.mp4", "y/a.mp4", "b.mkv", "z/b.avi", "c.mp4", "c.mov")
    with pytest.raises(Ego2ExoError, match=r"2 video\(s\).*a.mp4: x/a.mp4 and y/a.mp4; c: c.mov and c.mp4"):
        find_videos(items("a.mp4", "b.mkv", "c", "a.mp4"), place)


def test_the_clip_as_a_file_of_its_own(folder):
    place = folder("lemma/v1_0_552.mp4", "lemma/v2.mp4", "lemma/v2_0_9.mp4")
    spans = [replace(item, start_s=1.0, end_s=2.0) for item in items("v1", "v2", "v3")]
    names = {"i:0": "v1_0_552.mp4", "i:1": "v2_0_9.mp4", "i:2": "v3_0_9.mp4"}
    found = find_videos(spans, place, names)
    assert paths(found, place) == ["lemma/v1_0_552.mp4", "lemma/v2.mp4", None]
    assert [(item.start_s, item.end_s) for item in found.items] == [(None, None), (1.0, 2.0), (1.0, 2.0)]
    assert len(find_videos(spans, place).missing) == 2


def test_links(folder, tmp_path):
    place = folder("real/a.mp4", "b.mp4")
    outside = tmp_path / "blobs"
    outside.mkdir()
    (outside / "123").touch()
    (outside / "d.mp4").touch()
    (place / "c.mp4").symlink_to(outside / "123")
    (place / "again").symlink_to(place / "real")
    (place / "up").symlink_to(place)
    (place / "more").symlink_to(outside)
    (place / "a.mkv").symlink_to(place / "real/a.mp4")
    (place / "gone.mp4").symlink_to(tmp_path / "nowhere")
    found = find_videos(items("a", "b.mp4", "c.mp4", "d", "gone.mp4"), place)
    assert paths(found, place)[1:] == ["b.mp4", "c.mp4", "more/d.mp4", None]
    assert os.path.realpath(found.items[0].path) == os.path.realpath(place / "real/a.mp4")


@pytest.mark.parametrize(("name", "message"), [("no", "is not there"), ("f.mp4", "is no folder"), ("e", "no video")])
def test_folders_that_hold_nothing(tmp_path, name, message):
    (tmp_path / "f.mp4").touch()
    (tmp_path / "e").mkdir()
    (tmp_path / "e/notes.txt").touch()
    with pytest.raises(Ego2ExoError, match=f"--videos .*{message}"):
        find_videos(items("a"), tmp_path / name)


def test_no_name_finds_anything_outside(folder):
    place = folder("a.mp4", "a/b.mkv", "b/ab.mp4")
    (place.parent / "secret.mp4").touch()
    for name in ("../secret.mp4", "x/../../secret.mp4", "..", "/", "", "../v", "\0", "C:\\a.mp4", "a/../../secret"):
        path = find_videos(items(name), place).items[0].path
        assert not path or os.path.realpath(path).startswith(str(place))
