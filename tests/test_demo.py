"""The demo, as `scripts/demo.sh` runs it, on whichever llava is importable; its parts without one."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.demo import __main__ as demo
from llava_ego2exo.demo.material import from_json, from_videos
from llava_ego2exo.demo.render import render_clip, sample, write_samples
from llava_ego2exo.demo.training import absolute, highlights, shown

needs_llava = pytest.mark.skipif(importlib.util.find_spec("llava") is None, reason="no llava is importable")


def run(*arguments, cwd):
    command = [sys.executable, "-m", "llava_ego2exo.demo", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def videos(tmp_path):
    """Two videos, and two files that are none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    render_clip(folder / "a_red_block.mp4", "red", "left")
    render_clip(folder / "b_blue_block.mp4", "blue", "up", seed=1)
    (folder / "broken.mp4").write_bytes((folder / "a_red_block.mp4").read_bytes()[:200])
    (folder / "notes.txt").write_text("no video")
    return folder


@needs_llava
@pytest.mark.slow
def test_drawn_videos(tmp_path):
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "python -m llava_ego2exo.train" in done.stdout and "--ego2exo True" in done.stdout
    first, last = map(float, re.search(r"loss: (\S+) at the first .* (\S+) at the last", done.stdout).groups())
    assert last < first / 10
    answers = re.findall(r"expected  (.+)\n  student   (.+)\n  merged    (.+)\n  base      (.*)\n", done.stdout)
    assert len(answers) == 4
    for expected, student, merged, base in answers:
        assert expected == student == merged != base
    assert "as expected: student 4 of 4, merged 4 of 4, base 0 of 4" in done.stdout
    folder = re.search(r"everything goes to (\S+)", done.stdout)[1]
    assert not list(tmp_path.iterdir()) and not (tmp_path / folder).exists()


@needs_llava
@pytest.mark.slow
def test_own_videos_are_kept_where_asked(tmp_path, videos):
    done = run("--videos", "videos", "--out", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"left out: video \S+broken.mp4 does not decode", done.stdout)
    assert re.search(r"left out: video \S+notes.txt does not decode", done.stdout)
    assert "2 file(s) left out, 2 taken" in done.stdout
    assert "student   This is a red block." in done.stdout and "student   This is b blue block." in done.stdout
    names = {entry.name for entry in (tmp_path / "kept").iterdir()}
    assert {"student", "merged", "train.json", "train.log", "vision_tower"} <= names


@needs_llava
@pytest.mark.slow
def test_a_video_that_does_not_decode_stops_training_by_name(tmp_path, videos):
    data = write_samples(tmp_path / "mine.json", [sample("broken.mp4", "Nothing.")])
    done = run("--videos", videos, "--data", data, "--out", "kept", cwd=tmp_path)
    assert done.returncode == 1
    assert "broken.mp4" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--videos", "nowhere"], "--videos nowhere is no folder"),
        (["--videos", "empty"], "no file there decodes"),
        (["--videos", "videos", "--data", "none.json"], "no file .*none.json"),
        (["--out", "videos"], "--out videos exists and is not empty"),
    ],
)
def test_wrong_input(arguments, message, tmp_path, videos, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llava_ego2exo.host.flavour.detect", lambda: "next")
    assert demo.main(arguments) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["--data", "a.json"], ["--limit", "0"], ["--epochs", "0"]])
def test_flags_that_cannot_be(arguments, capsys):
    with pytest.raises(SystemExit):
        demo.main(arguments)


def test_a_limit_leaves_out_by_name(videos, tmp_path):
    material, left_out = from_videos(videos, tmp_path / "train.json", limit=1)
    assert [item.answer for item in material.items] == ["This is a red block."]
    assert [reason for reason in left_out if reason.startswith("b_blue_block.mp4: --limit 1")]


def test_a_json_gives_first_questions_of_videos(tmp_path):
    good = sample("a.mp4", " Yes. ", "Is it?")
    good["conversations"] += [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "No."}]
    entries = [good, {"id": 1, "conversations": good["conversations"]}, "text", {"video": "b.mp4", "conversations": []}]
    items = from_json(tmp_path, write_samples(tmp_path / "d.json", entries)).items
    assert [(item.video, item.question, item.answer) for item in items] == [(f"{tmp_path}/a.mp4", "Is it?", "Yes.")]
    with pytest.raises(Ego2ExoError, match="asks nothing about a video"):
        from_json(tmp_path, write_samples(tmp_path / "e.json", entries[1:]))


def test_exit_code_of_the_report(capsys):
    items = from_items("yes", "no")
    right, wrong = ["yes", "?"], ["?", "?"]
    assert demo.report(items, {"student": right, "merged": right, "base": wrong}) == 0
    assert demo.report(items, {"student": right, "merged": wrong, "base": wrong}) == 1
    assert demo.report(items, {"student": wrong, "merged": wrong, "base": right}) == 1
    assert "as expected: student 0 of 2, merged 0 of 2, base 1 of 2" in capsys.readouterr().out


def from_items(*answers):
    from llava_ego2exo.demo.material import Item

    return [Item(f"{index}.mp4", "?", answer) for index, answer in enumerate(answers)]


def test_small_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a::/b") == f"{tmp_path}/a:/b" and absolute("") == ""
    assert shown(["python", "-m", "x", "--a", "b --c", "--d", "1"]) == "python -m x \\\n    --a 'b --c' \\\n    --d 1"
    assert demo.short("a\nb" + "c" * 100) == "a b" + "c" * 57 + " ..."
    log = "noise\nego2exo: inherited from x: nothing\n{'loss': 3.5}\n{'loss': 1e-05}\n"
    log += "ego2exo: saved to s; load it with:\n  call"
    assert highlights(log).splitlines() == [
        "ego2exo: inherited from x: nothing", "loss: 3.5 at the first of 2 steps, 1e-05 at the last", "",
        "ego2exo: saved to s; load it with:", "  call",
    ]  # fmt: skip
    assert json.loads((write_samples(tmp_path / "n/d.json", [])).read_text()) == []
