"""Cuts hold exactly their frames, survive being stopped, and are never taken for others."""

import os
import shutil
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.cli import main
from llava_ego2exo.distill.pairs.cut import Cutters, cut_pairs
from llava_ego2exo.distill.pairs.cutter import Cut, made_as, make
from llava_ego2exo.distill.pairs.file import read_pairs, write_pairs
from llava_ego2exo.distill.pairs.pair import Pair
from llava_ego2exo.video import video_seconds
from llava_ego2exo.video.limits import VideoLimits
from llava_ego2exo.video.probe import probe

from ..decoders import failing_decoder
from .videos import numbers, render


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Two takes' worth of frames: ego and exo of 30 s at 10 frames a second, with a key frame every 25."""
    folder = tmp_path_factory.mktemp("long")
    return {"ego": render(folder / "e.mp4", 30), "exo1": render(folder / "x.mkv", 30, shade=80)}


def pair(long, segment="s", **changes):
    values = {"ego": long["ego"], "exo": {"exo1": long["exo1"]}, "start_s": 12.3, "end_s": 14.1, "offset_s": 0.5}
    return Pair(segment, **{**values, **changes})


def quiet(pairs, out, **settings):
    return cut_pairs(pairs, out, progress=False, workers=2, **settings)


def test_cuts_are_frame_exact_and_exo_is_shifted(long, tmp_path):
    """Without an end the exo ends with the ego; whole files stay where they are."""
    whole = pair(long, "whole", start_s=0.0, end_s=None, offset_s=0.0)
    open_end = pair(long, "o", ego=render(tmp_path / "in/short.mp4", 3), start_s=1.0, end_s=None)
    parts = [pair(long), pair(long, "t", start_s=None, end_s=2.0, offset_s=0.0), open_end, whole]
    result = quiet(parts, tmp_path)
    assert (result.made, result.kept, result.whole, result.failures) == (6, 0, 2, []) and result.pairs[3] == whole
    assert numbers(tmp_path / "o_ego.mp4") == list(range(10, 30))
    assert numbers(tmp_path / "o_exo1.mp4") == list(range(15, 35))
    assert numbers(tmp_path / "s_ego.mp4") == list(range(123, 141))
    assert numbers(tmp_path / "s_exo1.mp4") == list(range(128, 146))
    assert numbers(tmp_path / "t_exo1.mp4") == list(range(20))
    new = result.pairs[0]
    assert (new.start_s, new.end_s, new.offset_s) == (None, None, 0.0) and new.ego == str(tmp_path / "s_ego.mp4")
    seen = probe(new.ego)
    assert not seen.error and seen.frames == 18 and seen.duration_s == pytest.approx(1.8, abs=0.01)


def test_a_stopped_run_resumes_and_a_finished_one_does_nothing(long, tmp_path, monkeypatch):
    pairs = [pair(long, f"s{n}", start_s=n, end_s=n + 0.5) for n in range(4)]
    count = []
    real = Cutters.call

    def stops(self, function, arguments, *rest):
        count.append(arguments["part"])
        open(arguments["part"], "wb").close()
        if len(count) == 4:
            raise KeyboardInterrupt
        return real(self, function, arguments, *rest)

    monkeypatch.setattr(Cutters, "call", stops)
    with pytest.raises(KeyboardInterrupt):
        cut_pairs(pairs, tmp_path, progress=False, workers=1)
    monkeypatch.undo()
    done = {name: (tmp_path / name).stat().st_mtime_ns for name in os.listdir(tmp_path)}
    assert 0 < len(done) < 8 and all(name.endswith(".mp4") for name in done)
    result = quiet(pairs, tmp_path)
    assert (result.made, result.kept) == (8 - len(done), len(done))
    assert all((tmp_path / name).stat().st_mtime_ns == then for name, then in done.items())
    assert (quiet(pairs, tmp_path).made, quiet(pairs, tmp_path).kept) == (0, 8)


def test_a_cut_of_other_times_quality_or_source_is_made_again(long, tmp_path):
    quiet([pair(long)], tmp_path)
    assert quiet([pair(long, end_s=13.0)], tmp_path).made == 2
    assert numbers(tmp_path / "s_ego.mp4") == list(range(123, 130))
    assert quiet([pair(long, end_s=13.0)], tmp_path, crf=30).made == 2
    other = {**long, "ego": render(tmp_path / "new/e.mp4", 30, shade=160)}
    again = quiet([pair(other, end_s=13.0)], tmp_path, crf=30)
    assert (again.made, again.kept) == (1, 1)
    moved = shutil.move(other["ego"], tmp_path / "new/moved.mp4")
    assert quiet([pair({**other, "ego": moved}, end_s=13.0)], tmp_path, crf=30).kept == 2


def test_what_fails_is_reported_and_left_out(long, tmp_path):
    short = render(tmp_path / "short.mp4", 13)
    pairs = [
        pair(long, "late", start_s=31, end_s=32),
        pair(long, "short", exo={"exo1": short, "exo2": long["exo1"]}),
        pair(long, "good"),
    ]
    result = quiet(pairs, tmp_path / "out")
    assert [new.segment for new in result.pairs] == ["short", "good"] and list(result.pairs[0].exo) == ["exo2"]
    assert [line.split(":")[0] for line in result.failures] == ["late ego", "late exo1", "short exo1"]
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".part") or "late" in name]
    assert not quiet([pair(long, "near", end_s=30.3, offset_s=0.0)], tmp_path / "out").failures


def test_refused_before_any_cut(long, tmp_path):
    write = write_pairs(tmp_path / "s_ego.mp4", [pair(long)])  # a text file in the way
    source = render(tmp_path / "in/t_ego.mp4", 3)
    clash = [pair(long, "a_b", exo={"c": long["exo1"]}), pair(long, "a", exo={"b_c": long["exo1"]})]
    for pairs, out, settings, token in (
        ([pair(long), pair(long, "t", ego=tmp_path / "no.mp4")], "", {}, "1 video.*not there: t ego"),
        ([pair(long, offset_s=-13.0)], "", {}, "s begins at -0.7 s"),
        (clash, "", {}, "named .*a_b_c.mp4"),
        ([pair(long)], "", {"crf": 99}, "--crf 99"),
        ([pair(long)], "", {}, "in the way .*s_ego.mp4"),
        ([pair(long, "t", ego=source, start_s=1, end_s=2)], "in", {}, "in the way .*t_ego.mp4"),
    ):
        with pytest.raises(Ego2ExoError, match=token):
            quiet(pairs, tmp_path / out, **settings)
    assert sorted(os.listdir(tmp_path)) == ["in", "s_ego.mp4"] and write.read_text()


def test_odd_sizes_and_a_torn_cut(tmp_path):
    source = render(tmp_path / "odd.mkv", 25.0, size=(63, 161), pix_fmt="yuv444p")
    assert video_seconds(str(source)) == pytest.approx(25.0, abs=0.01)
    cut = Cut(str(source), str(tmp_path / "c.mp4"), 24.0, 24.5)
    assert make(cut) == "made" and made_as(cut.target) == cut.mark() and make(cut) == "kept"
    seen = probe(cut.target)
    assert (seen.error, seen.height, seen.width) == ("", 62, 160) and numbers(cut.target) == list(range(240, 245))
    data = (tmp_path / "c.mp4").read_bytes()
    (tmp_path / "c.mp4").write_bytes(data[: len(data) // 2])
    assert made_as(cut.target) == "" and make(cut) == "made" and numbers(cut.target) == list(range(240, 245))


def test_a_rotated_video_is_cut_as_players_show_it(tmp_path):
    source = render(tmp_path / "r.mp4", 1)
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 44
    # A quarter turn clockwise: right (1, 0) goes down (0, 1).
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    source.write_bytes(data)
    assert make(Cut(str(source), str(tmp_path / "c.mp4"), 0.5, 1.0)) == "made"
    with av.open(str(tmp_path / "c.mp4")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="gray")
    with av.open(str(source)) as container:
        stored = list(container.decode(video=0))[5].to_ndarray(format="gray")
    assert picture.shape == (160, 64) and np.abs(picture.astype(int) - np.rot90(stored, -1)).max() < 40


def test_the_same_cut_has_the_same_bytes(real_videos, tmp_path):
    cuts = [Cut(str(real_videos / "flipping_a_pancake.mkv"), str(tmp_path / f"{n}.mp4"), 4.2, 6.2) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(make, cuts)) == {"made"}
    assert len({open(cut.target, "rb").read() for cut in cuts}) == 1


def test_a_decoder_that_hangs_or_crashes_fails_one_cut_and_a_slow_one_none(long, tmp_path, monkeypatch):
    failing_decoder(monkeypatch)
    names = ("does-hang", "does-crash", "does-linger")
    files = [shutil.copy(long["ego"], tmp_path / f"{name}.mp4") for name in names]
    begun = time.monotonic()
    pairs = [pair(long, name[5:], ego=file, start_s=1.0, end_s=2.0) for name, file in zip(names, files, strict=True)]
    result = quiet(pairs, tmp_path / "out", limits=VideoLimits(video_limit_s=2))
    assert "within 2 s" in result.failures[0] and "exit code -11" in result.failures[1] and result.made == 4
    assert [new.segment for new in result.pairs] == ["linger"] and time.monotonic() - begun > 3
    assert not [name for name in os.listdir(tmp_path / "out") if not name.endswith(".mp4")]


def test_command(long, tmp_path, capsys):
    path = write_pairs(tmp_path / "pairs.jsonl", [pair(long), pair(long, "late", start_s=31, end_s=32)])
    assert main(["pairs", "cut", "--pairs", str(path), "--out", str(tmp_path)]) == 1
    assert "would overwrite" in capsys.readouterr().err
    out = tmp_path / "out"
    assert main(["pairs", "cut", "--pairs", str(path), "--out", str(out), "--workers", "1"]) == 1
    text = capsys.readouterr().out
    assert "2 cut(s) made, 0 kept" in text and "failed: late ego" in text and "2 cut(s) failed" in text
    assert [new.segment for new in read_pairs(out / "pairs.jsonl")] == ["s"]
