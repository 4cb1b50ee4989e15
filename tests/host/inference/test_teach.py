"""`teach` with tiny teachers: its answers, interruptions, several processes, failures, and what it refuses."""

import dataclasses
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import llava_ego2exo
from llava_ego2exo import Ego2ExoError, ask, cli
from llava_ego2exo.distill.pairs.file import read_pairs, write_pairs
from llava_ego2exo.distill.pairs.pair import Pair
from llava_ego2exo.distill.teach.job import QUERIES
from llava_ego2exo.distill.teach.store import Answer, load_top_k, read_answers
from llava_ego2exo.host.checkpoint.files import fingerprint
from llava_ego2exo.host.inference import answerer
from llava_ego2exo.video import read_video
from tests.videos import COLOURS, MOVES, render_clip

from ..models import is_next
from ..resume.killing import killed_at
from .asking import command_line, error_of, files_in, generate, in_two_processes

pytestmark = pytest.mark.usefixtures("registered")
KINDS = list(QUERIES)
NEW = 8


class Setting:
    """A folder of five pairs, and the command that teaches on them."""

    def __init__(self, root: Path, world) -> None:
        self.root, self.kind = root, "qwen" if is_next() else "llama"
        self.model, self.template = world.base(self.kind), world.template(self.kind)
        self.videos, self.pairs, self.out = root / "videos", root / "pairs.jsonl", root / "out"

    def render(self) -> None:
        self.videos.mkdir()
        pairs = []
        for number in range(5):
            colour, move = list(COLOURS)[number % 4], list(MOVES)[(number + 1) % 4]
            ego = self.videos / f"s{number}_ego.mp4"
            render_clip(ego, colour, move, frames=4 + number, seed=number)
            pairs.append(Pair(f"s{number}", str(ego), {"exo1": str(self.videos / f"s{number}_exo1.mp4")}))
        self.change(*pairs)

    def command(self, **flags) -> list[str]:
        values = {
            "pairs": self.pairs, "model": self.model, "template": self.template, "out": self.out,
            "batch_size": 2, "max_new_tokens": NEW, "frames_upbound": 3, "workers": 2,
        }  # fmt: skip
        return command_line("teach", {**values, **flags})

    def teach(self, **flags) -> int:
        return cli.main(self.command(**flags))

    def answers(self) -> list[Answer]:
        return read_answers(self.out)

    def bytes(self) -> bytes:
        return (self.out / "answers.jsonl").read_bytes()

    def change(self, *pairs: Pair) -> None:
        write_pairs(self.pairs, pairs)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, world):
    setting = Setting(tmp_path_factory.mktemp("teach"), world)
    setting.render()
    return setting


@pytest.fixture(scope="module")
def answered(rendered, tmp_path_factory, world):
    """The same with all its answers and two logits a token."""
    setting = Setting(tmp_path_factory.mktemp("answered"), world)
    shutil.copytree(rendered.root, setting.root, dirs_exist_ok=True)
    llava_ego2exo.register()
    assert setting.teach(top_k=2) == 0
    llava_ego2exo.unregister()
    return setting


def copied(setting, root, world):
    shutil.copytree(setting.root, root, dirs_exist_ok=True)
    return Setting(root, world)


@pytest.fixture
def setting(rendered, tmp_path, world):
    return copied(rendered, tmp_path, world)


@pytest.fixture
def finished(answered, tmp_path, world):
    return copied(answered, tmp_path, world)


@pytest.fixture
def asked(monkeypatch):
    """(frames of each clip, questions of each clip) of every batch that a model is asked."""
    batches, original = [], answerer.Answerer.answer

    def answer(self, clips, questions):
        batches.append(([clip.shape[0] for clip in clips], questions))
        return original(self, clips, questions)

    monkeypatch.setattr(answerer.Answerer, "answer", answer)
    return batches


def test_answers_are_the_models_own_in_order_and_asked_once(answered, no_model, capsys):
    answers, pairs = answered.answers(), read_pairs(answered.pairs)
    assert [(a.segment, a.kind) for a in answers] == [(p.segment, kind) for p in pairs for kind in KINDS]
    loaded = answerer.load(str(answered.model), torch_dtype="float32")
    for answer, pair in zip(answers, [pair for pair in pairs for _ in KINDS], strict=True):
        frames = read_video(pair.ego, frames_upbound=3).frames
        pixels = loaded[2].preprocess(list(frames), return_tensors="pt")["pixel_values"]
        assert answer.answer == generate(loaded, pixels, answer.query, answered.template, NEW)
        assert answer.query in QUERIES[answer.kind] and answer.split == "train"
        assert answer.tokens == NEW and "cut" in answer.flags
        assert answer.teacher == fingerprint(str(answered.model))
    assert len({answer.answer for answer in answers}) > 10
    before = files_in(answered.out)
    no_model()
    assert answered.teach(top_k=2) == 0
    assert files_in(answered.out) == before and "nothing to do" in capsys.readouterr().out


def test_killed_and_resumed_equals_uninterrupted(setting, answered):
    """The first kill tears a record, the second leaves a part of a batch."""
    sizes = [len(line) + 1 for line in answered.bytes().splitlines()]
    for batch, kept in ((1, 100), (2, sizes[0] + sizes[1] + 5)):
        assert killed_at(setting.command(top_k=2), batch, kept) == -signal.SIGKILL
        assert not (setting.out / "answers.jsonl").exists()
    assert 0 < len(setting.answers()) < 15
    assert setting.teach(top_k=2) == 0
    assert setting.bytes() == answered.bytes()
    assert not list(setting.out.glob("answers.part-*"))
    for answer in setting.answers():
        one, other = (load_top_k(root, answer.key) for root in (setting.out, answered.out))
        assert np.array_equal(one.logits, other.logits) and np.array_equal(one.ids, other.ids)
        assert one.ids.shape == (answer.tokens, 2)


@pytest.mark.slow
def test_two_processes_equal_one(setting, answered):
    done = in_two_processes(setting.command(top_k=2), setting.root)
    assert [code for code, _ in done] == [0, 0], done
    assert [text.count("15 of 15 answers") for _, text in done] == [1, 0]
    assert setting.bytes() == answered.bytes()
    refused = in_two_processes(setting.command(top_k=2, seed=1), setting.root)
    assert [code for code, _ in refused] == [1, 1]
    assert "seed: 0, now 1" in refused[0][1] and "seed" not in refused[1][1]


@pytest.mark.slow
def test_a_lora_teacher_with_its_base(world, student, tmp_path):
    """It answers the videos that it was trained on by heart, and its likeliest tokens are its answer's."""
    teacher, setting = student(), Setting(tmp_path, world)
    captions = {s["video"]: s["conversations"][1]["value"] for s in json.loads(world.data.read_text())}
    videos = [str(world.videos / name) for name in captions]
    setting.change(*[Pair(Path(video).stem, video, {"exo1": video}) for video in videos])
    (tmp_path / "q.json").write_text('{"what": ["What moves, and where to?"]}')
    flags = {"model": teacher.folder, "model_base": teacher.base, "template": "v1", "queries": tmp_path / "q.json"}
    assert setting.teach(**flags, frames_upbound=4, max_new_tokens=40, batch_size=3, top_k=2) == 0
    answers = setting.answers()
    assert [answer.answer for answer in answers] == list(captions.values())
    assert all(answer.flags == () and answer.kind == "what" for answer in answers)
    stored = load_top_k(setting.out, answers[0].key)
    assert np.array_equal(stored.ids[:, 0], stored.tokens) and len(stored.tokens) == answers[0].tokens < 40


def test_an_unreadable_clip_is_listed_and_asked_again(setting, answered, capsys):
    clip = setting.videos / "s1_ego.mp4"
    good = clip.read_bytes()
    clip.write_bytes(b"no video" * 100)
    assert setting.teach(top_k=2) == 1
    assert str(clip) in error_of(capsys)
    assert {a.segment for a in setting.answers()} == {"s0", "s2", "s3", "s4"}
    assert [f["segment"] for f in json.loads((setting.out / "failures.json").read_text())] == ["s1"]
    assert setting.teach(top_k=2, max_failures=1) == 0
    assert "failed, allowed: s1" in capsys.readouterr().out
    clip.write_bytes(good)
    assert setting.teach(top_k=2) == 0
    assert not (setting.out / "failures.json").exists() and setting.bytes() == answered.bytes()


def test_clips_that_are_not_there_are_named_before_work(setting, no_model, capsys):
    (setting.videos / "s1_ego.mp4").unlink()
    no_model()
    assert setting.teach() == 1
    assert "s1_ego.mp4" in error_of(capsys) and not setting.out.exists()


def test_a_clip_too_long_for_the_model_and_a_part_outside_its_video(setting, capsys, monkeypatch):
    pairs = read_pairs(setting.pairs)
    setting.change(*pairs[:4], dataclasses.replace(pairs[4], start_s=1.0, end_s=90.0))
    room = iter([10, *[2048] * 99])
    monkeypatch.setattr(answerer.Answerer, "room", lambda _self: next(room))
    assert setting.teach() == 1
    message = error_of(capsys)
    assert "3 clip(s) failed" in message and "the model has 10" in message and "1 s to 90 s" in message
    assert len(setting.answers()) == 6


def test_out_of_gpu_memory(setting, capsys, monkeypatch):
    def answer(*_args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(answerer.Answerer, "answer", answer)
    for seed in (0, 7):  # a run without answers imposes no settings
        assert setting.teach(seed=seed) == 1
        assert "--batch-size" in error_of(capsys)


class TestOneFolder:
    def test_another_teacher_or_way_of_asking_is_refused_and_a_copy_is_not(self, finished, no_model, capsys, tmp_path):
        model = tmp_path / f"copy_{finished.kind}"
        shutil.copytree(finished.model, model)
        no_model()
        assert finished.teach(model=model, top_k=2) == 0
        file = next(iter(model.glob("*.safetensors")))
        file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
        capsys.readouterr()
        for flags, differing in (
            ({"model": model}, ["teacher: "]),
            ({"frames_upbound": 2, "time_instruction": "True"}, ["frames_upbound: 3, now 2", "time_instruction"]),
            ({"top_k": 3}, ["top_k: 2, now 3"]),
        ):
            assert finished.teach(**{"top_k": 2, **flags}) == 1
            message = error_of(capsys)
            assert "another --out" in message and all(text in message for text in differing), flags
        (finished.out / "manifest.json").write_text('{"teacher": 3}')
        assert finished.teach() == 1
        assert "manifest.json" in error_of(capsys)
        (finished.out / "manifest.json").unlink()
        assert finished.teach(dtype="bfloat16") == 1, "known from the answers too"
        assert 'dtype: "float32", now "bfloat16"' in error_of(capsys)

    def test_other_splits_and_pairs_are_kept_beside_and_a_changed_video_is_asked_again(self, finished, capsys):
        pairs, before = read_pairs(finished.pairs), finished.answers()
        finished.change(dataclasses.replace(pairs[0], split="test"), *pairs[1:])
        assert finished.teach(top_k=2) == 0
        assert "kept beside: 3" in capsys.readouterr().out
        assert finished.teach(top_k=2, split="test") == 0
        assert [a.segment for a in finished.answers() if a.split == "test"] == ["s0"] * 3
        finished.change(*pairs[1:])
        render_clip(finished.videos / "s2_ego.mp4", "yellow", "up", frames=9, seed=77)
        assert finished.teach(top_k=2) == 0
        assert "dropped: 3" in capsys.readouterr().out
        after = finished.answers()
        assert [a.segment for a in after][-3:] == ["s0"] * 3
        assert {a.segment for a in after[:-3] if a not in before} == {"s2"}

    def test_a_renamed_video_is_not_asked_again_and_one_under_two_names_once(self, setting, asked, no_model):
        """One wording a kind, as it is drawn by the segment."""
        queries = setting.root / "q.json"
        queries.write_text('{"a": ["What?"], "b": ["Who?"]}')
        first, other = read_pairs(setting.pairs)[:2]
        twin = dataclasses.replace(first, segment="twin", ego=str(setting.videos / "twin.mp4"), take="twin")
        shutil.copy(first.ego, twin.ego)
        setting.change(first, other, twin)
        assert setting.teach(queries=queries) == 0
        before = setting.answers()
        assert [questions for _, questions in asked] == [[["What?", "Who?"]] * 2]
        assert [a.answer for a in before[4:]] == [a.answer for a in before[:2]]
        setting.change(dataclasses.replace(first, segment="r0", ego=shutil.move(first.ego, f"{first.ego}.mp4")), other)
        no_model()
        assert setting.teach(queries=queries) == 0
        after = setting.answers()
        assert [a.segment for a in after][:3] == ["r0", "r0", "s1"]
        assert [(a.key, a.answer) for a in after[:4]] == [(a.key, a.answer) for a in before[:4]]

    def test_a_lost_record_has_its_whole_batch_asked_again_and_is_alone_written(self, finished, asked):
        """What goes through the model together decides its rounding, so it must not depend on what is there."""
        lines = finished.bytes().decode().splitlines(keepends=True)
        changed = lines[6].replace('"answer": "', '"answer": "kept ')
        (finished.out / "answers.jsonl").write_text("".join([*lines[:6], changed, *lines[8:]]))
        assert finished.teach(top_k=2) == 0
        queries = [json.loads(line)["query"] for line in lines]
        assert [questions for _, questions in asked] == [[queries[6:9], queries[9:12]]]
        assert finished.bytes().decode().splitlines(keepends=True) == [*lines[:6], changed, *lines[7:]]


def test_an_estimate_keeps_its_answers(setting, capsys):
    assert setting.teach(estimate=3, batch_size=1) == 0
    assert re.search(rf"left: 2 clips, about [0-9.]+ \w+ and {2 * 3 * NEW} tokens", capsys.readouterr().out)
    early = setting.answers()
    assert len(early) == 9 and not (setting.out / "answers.jsonl").exists()
    assert setting.teach(estimate=16, batch_size=1) == 0
    assert "15 of 15 answers" in capsys.readouterr().out and all(a in setting.answers() for a in early)


def test_a_part_is_seen_as_if_cut_and_its_times_are_given(setting, asked):
    setting.change(dataclasses.replace(read_pairs(setting.pairs)[4], start_s=1.0, end_s=3.0))
    assert setting.teach(time_instruction="True") == 0
    ((frames, ((question, *_),)),) = asked
    assert frames == [2]
    assert question.startswith("The video lasts for 2.00 seconds, and 2 frames") and "0.00s,1.00s." in question
    answer = setting.answers()[0]
    assert question.split("\n")[1] == answer.query and (answer.start_s, answer.end_s) == (1.0, 3.0)


def test_ask_asks_as_teach_does(setting, asked, tmp_path, no_model):
    """What a checkpoint says of its frames and their times counts in both, from a folder and loaded."""
    model, (pair, *_) = tmp_path / f"model_{setting.kind}", read_pairs(setting.pairs)
    shutil.copytree(setting.model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "force_sample": True, "add_time_instruction": True}))
    (setting.root / "q.json").write_text('{"a": ["What moves?"]}')
    setting.change(pair)
    assert setting.teach(model=model, queries=setting.root / "q.json", frames_upbound=6) == 0
    given = {"template": setting.template, "frames_upbound": 6, "max_new_tokens": NEW}
    text = ask(model, pair.ego, "What moves?", **given)
    assert asked[0][0] == [6] and asked[0][1][0][0].startswith("The video lasts for 2.00 seconds, and 6 frames")
    assert text == setting.answers()[0].answer
    assert ask(answerer.load(str(model), torch_dtype="float32"), pair.ego, "What moves?", **given) == text
    assert asked == [asked[0]] * 3
    with pytest.raises(Ego2ExoError, match="bits"):
        ask((None,) * 4, pair.ego, "What moves?", bits=4)
    no_model()
    adapter = tmp_path / f"adapter_{setting.kind}"
    adapter.mkdir()
    shutil.copy(model / "config.json", adapter)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "the/base"}')
    for student, video, wrong, word in (
        (model, pair.ego, {"video_fps": 0}, "video_fps 0"),
        (model, pair.ego, {"max_new_tokens": 10**6}, "max_new_tokens"),
        (model, pair.ego, {"fps": 1}, "no option fps"),
        (model, pair.ego, {"start_s": 99}, "correct its start_s"),
        (model, setting.videos, {}, "is a folder"),
        (model, setting.videos / "none.mp4", {}, "none.mp4 is not there"),
        (adapter, pair.ego, {}, "give the/base as base,"),
    ):
        with pytest.raises(Ego2ExoError, match=word) as error:
            ask(student, video, "What moves?", **{**given, **wrong})
        assert "--" not in str(error.value) and "of the pair" not in str(error.value)


def test_wrong_input_is_refused_before_work(setting, world, tmp_path, no_model, capsys, monkeypatch):
    no_model()
    empty = tmp_path / f"empty_{setting.kind}"
    shutil.copytree(setting.model, empty, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for flags, token in (
        ({"model": "nowhere"}, "nowhere"),
        ({"model": empty}, "no weights"),
        ({"model": world.base("llama"), "template": None}, "--template"),
        ({"model_base": setting.model}, "--model-base"),
        ({"split": "val"}, "--split val"),
        ({"max_new_tokens": 100000}, "2048"),
        ({"top_k": 99999}, "--top-k 99999"),
        ({"queries": "nowhere.json"}, "nowhere.json"),
        ({"bits": 4}, "pip install bitsandbytes"),
    ):
        assert setting.teach(**flags) == 1
        assert token in error_of(capsys), flags
    assert not setting.out.exists()
