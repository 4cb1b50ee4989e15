"""`teach` with tiny teachers: its answers, interruptions, several processes, failures, and what it refuses."""

import dataclasses
import json
import re
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from llava_ego2exo import cli
from llava_ego2exo.distill.answers import Answer, AnswerStore, read_answers
from llava_ego2exo.distill.pairs import Pair, read_pairs, write_pairs
from llava_ego2exo.distill.queries import QUERIES
from llava_ego2exo.distill.top_k import load_top_k
from llava_ego2exo.host import asking, teacher
from llava_ego2exo.host.fingerprint import fingerprint
from llava_ego2exo.video import read_video
from tests.videos import COLOURS, MOVES, QUESTION, render_clip

from .asking import error_of
from .killing import killed_at, on_two_processes
from .models import is_next

pytestmark = pytest.mark.usefixtures("registered")
KINDS = list(QUERIES)
NEW = 8


class Setting:
    """A folder of pairs, and the command that teaches on them."""

    def __init__(self, root: Path, world) -> None:
        self.root, self.kind = root, "qwen" if is_next() else "llama"
        self.model, self.template = world.base(self.kind), world.template(self.kind)
        self.videos = root / "videos"
        self.videos.mkdir()
        pairs = []
        for number in range(5):
            colour, move = list(COLOURS)[number % 4], list(MOVES)[(number + 1) % 4]
            ego = self.videos / f"s{number}_ego.mp4"
            render_clip(ego, colour, move, frames=4 + number, seed=number)
            pairs.append(Pair(f"s{number}", str(ego), {"exo1": str(self.videos / f"s{number}_exo1.mp4")}))
        self.pairs = write_pairs(root / "pairs.jsonl", pairs)

    def command(self, out: str = "out", **flags) -> list[str]:
        """Flags override; None leaves one out, True gives it without value."""
        values = {
            "pairs": self.pairs, "model": self.model, "template": self.template, "out": self.root / out,
            "batch-size": 2, "max-new-tokens": NEW, "frames-upbound": 3, "workers": 2,
            **{name.replace("_", "-"): value for name, value in flags.items()},
        }  # fmt: skip
        given = [(name, value) for name, value in values.items() if value is not None]
        return ["teach", *(part for n, v in given for part in ([f"--{n}"] if v is True else [f"--{n}", str(v)]))]

    def teach(self, out: str = "out", **flags) -> int:
        return cli.main(self.command(out, **flags))

    def answers(self, out: str = "out") -> list[Answer]:
        return read_answers(self.root / out)

    def bytes(self, out: str = "out") -> bytes:
        return (self.root / out / "answers.jsonl").read_bytes()

    def change(self, *pairs: Pair) -> None:
        write_pairs(self.pairs, pairs)


@pytest.fixture
def setting(tmp_path, world):
    return Setting(tmp_path, world)


def test_answers_are_the_models_own_in_order_and_asked_once(setting, no_model, capsys):
    assert setting.teach() == 0
    answers, pairs = setting.answers(), read_pairs(setting.pairs)
    assert [(a.segment, a.kind) for a in answers] == [(p.segment, kind) for p in pairs for kind in KINDS]
    tokenizer, model, processor, _ = asking.load(str(setting.model), torch_dtype="float32")
    for answer, pair in zip(answers, [pair for pair in pairs for _ in KINDS], strict=True):
        frames = read_video(pair.ego, frames_upbound=3).frames
        pixels = processor.preprocess(list(frames), return_tensors="pt")["pixel_values"]
        assert answer.answer == asking.generate(model, tokenizer, pixels, answer.query, setting.template, NEW)
        assert answer.query in QUERIES[answer.kind] and answer.split == "train"
        assert answer.tokens == NEW and "cut" in answer.flags
        assert answer.teacher == fingerprint(str(setting.model))
    assert len({answer.answer for answer in answers}) > 10
    assert len({answer.query for answer in answers}) > 6
    out = capsys.readouterr().out
    assert "15 of 15 answers" in out and "cut 15" in out
    assert f"most answers were cut at --max-new-tokens {NEW}" in out and "with a new --out" in out
    before = {path: path.read_bytes() for path in (setting.root / "out").rglob("*") if path.is_file()}
    no_model()
    assert setting.teach() == 0
    assert {path: path.read_bytes() for path in (setting.root / "out").rglob("*") if path.is_file()} == before
    assert capsys.readouterr().out.startswith(f"nothing to do: {setting.root / 'out'} holds all 15 answers")


def test_killed_three_times_and_resumed_equals_uninterrupted(setting):
    """The first kill tears a record, the second leaves a part of a batch, the third none of one."""
    assert setting.teach("whole", top_k=3) == 0
    sizes = [len(line) + 1 for line in setting.bytes("whole").splitlines()]
    for batch, kept in ((1, 100), (2, sizes[0] + sizes[1] + 5), (1, 0)):
        assert killed_at(setting.command("out", top_k=3), AnswerStore, batch, kept) == -signal.SIGKILL
        assert not (setting.root / "out" / "answers.jsonl").exists()
    assert 0 < len(setting.answers()) < 15
    assert setting.teach(top_k=3) == 0
    assert setting.bytes() == setting.bytes("whole")
    assert not list((setting.root / "out").glob("answers.part-*"))
    for answer in setting.answers():
        one, other = (load_top_k(setting.root / out, answer.key) for out in ("out", "whole"))
        assert np.array_equal(one.logits, other.logits) and np.array_equal(one.ids, other.ids)
        assert len(one.tokens) == answer.tokens and one.ids.shape == (answer.tokens, 3)


@pytest.mark.slow
def test_two_processes_equal_one(setting):
    assert setting.teach("one", top_k=2) == 0
    done = on_two_processes(setting.command("two", top_k=2))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("15 of 15 answers") == 1
    assert setting.bytes("two") == setting.bytes("one")
    for answer in setting.answers("two"):
        assert np.array_equal(*(load_top_k(setting.root / out, answer.key).logits for out in ("one", "two")))
    bad = on_two_processes(setting.command("two", seed=1))
    assert bad.returncode != 0 and "seed: 0, now 1" in bad.stderr
    assert bad.stderr.count("was made otherwise") == 1, "said once, not by every process"


@pytest.mark.slow
def test_a_memorised_set_is_answered_by_heart(world, train, tmp_path, monkeypatch):
    """A LoRA teacher with its base, from LLaVA's own training."""
    train(tmp_path / "student", num_train_epochs=30, per_device_train_batch_size=2)
    captions = {s["video"]: s["conversations"][1]["value"] for s in json.loads(world.data.read_text())}
    pairs = [Pair(Path(name).stem, str(world.videos / name), {"exo1": str(world.videos / name)}) for name in captions]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "queries.json").write_text(json.dumps({"what": [QUESTION]}))
    command = [
        "teach", "--pairs", tmp_path / "pairs.jsonl", "--model", tmp_path / "student", "--model-base",
        world.base(), "--template", "v1", "--out", tmp_path / "out", "--queries", tmp_path / "queries.json",
        "--frames-upbound", "4", "--max-new-tokens", "40", "--batch-size", "3", "--top-k", "2",
    ]  # fmt: skip
    assert cli.main([str(part) for part in command]) == 0
    answers = read_answers(tmp_path / "out")
    assert [answer.answer for answer in answers] == list(captions.values())
    assert all(answer.flags == () and answer.kind == "what" for answer in answers)
    stored = load_top_k(tmp_path / "out", answers[0].key)
    assert np.array_equal(stored.ids[:, 0], stored.tokens), "greedy, so the likeliest token is the answer's"
    assert len(stored.tokens) == answers[0].tokens < 40


class TestFailures:
    def test_an_unreadable_clip_is_listed_and_the_rest_answered(self, setting, capsys):
        whole = setting.videos / "s1_ego.mp4"
        good = whole.read_bytes()
        whole.write_bytes(b"no video" * 100)
        assert setting.teach() == 1
        message = error_of(capsys)
        assert "1 clip(s) failed" in message and f"s1: video {whole} does not decode" in message
        assert {a.segment for a in setting.answers()} == {"s0", "s2", "s3", "s4"}
        assert [f["segment"] for f in json.loads((setting.root / "out" / "failures.json").read_text())] == ["s1"]
        others = {a.key: a for a in setting.answers()}
        assert setting.teach(max_failures=1) == 0
        assert "failed, allowed: s1" in capsys.readouterr().out
        whole.write_bytes(good)
        assert setting.teach() == 0
        assert not (setting.root / "out" / "failures.json").exists()
        assert len(setting.answers()) == 15
        assert {a.key: a for a in setting.answers() if a.segment != "s1"} == others
        assert setting.teach("fresh") == 0
        assert setting.bytes("fresh") == setting.bytes()

    def test_clips_that_are_not_there_are_named_before_work(self, setting, no_model, capsys):
        (setting.videos / "s1_ego.mp4").unlink()
        (setting.videos / "s3_ego.mp4").unlink()
        no_model()
        assert setting.teach() == 1
        message = error_of(capsys)
        assert "2 ego clip(s) are not there" in message and "s1" in message and "s3" in message
        assert not (setting.root / "out").exists()

    def test_as_many_as_allowed_may_be_missing(self, setting, capsys):
        (setting.videos / "s1_ego.mp4").unlink()
        assert setting.teach(max_failures=1) == 0
        assert len(setting.answers()) == 12 and "failed, allowed: s1" in capsys.readouterr().out

    def test_a_clip_too_long_for_the_model(self, setting, capsys, monkeypatch):
        room = iter([10, *[2048] * 99])
        monkeypatch.setattr(teacher.Teacher, "room", lambda _self: next(room))
        assert setting.teach() == 1
        assert "2 clip(s) failed" in (message := error_of(capsys))
        assert "positions, and the model has 10 for them" in message
        assert len(setting.answers()) == 9

    def test_a_part_outside_its_video(self, setting, capsys):
        pairs = read_pairs(setting.pairs)
        setting.change(dataclasses.replace(pairs[0], start_s=1.0, end_s=90.0), *pairs[1:])
        assert setting.teach() == 1
        assert "s0" in (message := error_of(capsys)) and "the part is 1 s to 90 s" in message

    def test_out_of_gpu_memory(self, setting, capsys, monkeypatch):
        def answer(*_args):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(teacher.Teacher, "answer", answer)
        assert setting.teach() == 1
        assert "memory ran out with 2 clip(s) and 6 question(s)" in (message := error_of(capsys))
        assert "smaller --batch-size" in message


class TestOneFolder:
    @pytest.mark.parametrize(
        ("flags", "difference"),
        [
            ({"max_new_tokens": 9}, "max_new_tokens: 8, now 9"),
            ({"frames_upbound": 2, "video_fps": 2}, "frames_upbound: 3, now 2; video_fps: 1, now 2"),
            ({"dtype": "bfloat16"}, 'dtype: "float32", now "bfloat16"'),
            ({"time_instruction": True}, None),
            ({"seed": 5}, "seed: 0, now 5"),
            ({"top_k": 3}, None),
        ],
        ids=str,
    )
    def test_other_settings_are_refused(self, setting, no_model, capsys, flags, difference):
        assert setting.teach(top_k=2) == 0
        no_model()
        flags = {name: "True" if value is True else value for name, value in flags.items()}
        assert setting.teach(**{"top_k": 2, **flags}) == 1
        message = error_of(capsys)
        assert "was made otherwise" in message and "another --out" in message
        assert (difference or next(iter(flags))) in message

    def test_another_teacher_is_refused_and_a_copy_is_not(self, setting, no_model, capsys, tmp_path):
        assert setting.teach() == 0
        copy = tmp_path / f"copy_{setting.kind}"
        shutil.copytree(setting.model, copy)
        no_model()
        assert setting.teach(model=copy) == 0
        file = next(iter(copy.glob("*.safetensors")))
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        assert setting.teach(model=copy) == 1
        assert "teacher: " in error_of(capsys)

    def test_strange_answers_are_refused_without_a_manifest_too(self, setting, no_model, capsys):
        assert setting.teach() == 0
        (setting.root / "out" / "manifest.json").unlink()
        no_model()
        assert setting.teach() == 0
        with AnswerStore(setting.root / "out", 7) as store:
            other = setting.answers()[0]
            store.append([dataclasses.replace(other, key="f" * 32, settings={**other.settings, "bits": 4})])
        assert setting.teach() == 1
        message = error_of(capsys)
        assert "1 answer(s) of another teacher or other settings (s0 descriptive): bits: 4, now 16" in message

    def test_other_splits_and_pairs_are_kept_beside(self, setting, capsys):
        pairs = read_pairs(setting.pairs)
        test = dataclasses.replace(pairs[0], split="test")
        setting.change(test, *pairs[1:])
        assert setting.teach(split="test") == 0
        assert {(a.segment, a.split) for a in setting.answers()} == {("s0", "test")}
        assert setting.teach() == 0
        assert "kept beside: 3" in capsys.readouterr().out
        assert setting.teach("all", split="all") == 0
        assert [a.segment for a in setting.answers()] == [a.segment for a in setting.answers("all")]
        setting.change(*pairs[1:])
        assert setting.teach() == 0
        assert [a.segment for a in setting.answers()][-3:] == ["s0"] * 3

    def test_renamed_segments_keep_their_answers(self, setting, no_model):
        """The key is the content; the wording is drawn by the segment, so one wording a kind here."""
        queries = setting.root / "q.json"
        queries.write_text('{"a": ["What?"], "b": ["Who?"]}')
        assert setting.teach(queries=queries) == 0
        before = setting.answers()
        pairs = read_pairs(setting.pairs)
        new = setting.videos / "renamed.mp4"
        shutil.move(pairs[0].ego, new)
        setting.change(dataclasses.replace(pairs[0], segment="r0", ego=str(new), split="train"), *pairs[1:])
        no_model()
        assert setting.teach(queries=queries) == 0
        after = setting.answers()
        assert [a.segment for a in after][:3] == ["r0", "r0", "s1"]
        assert [(a.key, a.answer) for a in after] == [(a.key, a.answer) for a in before]

    def test_a_changed_video_is_asked_again_alone(self, setting, capsys):
        assert setting.teach() == 0
        before = {(a.segment, a.kind): a for a in setting.answers()}
        render_clip(setting.videos / "s2_ego.mp4", "yellow", "up", frames=9, seed=77)
        assert setting.teach() == 0
        assert "dropped: 3" in capsys.readouterr().out
        after = {(a.segment, a.kind): a for a in setting.answers()}
        assert after.keys() == before.keys()
        assert {segment for (segment, kind) in after if after[segment, kind] != before[segment, kind]} == {"s2"}

    def test_one_clip_under_two_names_is_asked_once(self, setting, monkeypatch):
        queries = setting.root / "q.json"
        queries.write_text('{"a": ["What?"]}')
        pairs = read_pairs(setting.pairs)[:2]
        twin = setting.videos / "twin.mp4"
        shutil.copy(pairs[0].ego, twin)
        setting.change(*pairs, dataclasses.replace(pairs[0], segment="twin", ego=str(twin), take="twin"))
        asked = []
        original = teacher.Teacher.answer

        def answer(self, clips, questions):
            asked.extend(q for row in questions for q in row)
            return original(self, clips, questions)

        monkeypatch.setattr(teacher.Teacher, "answer", answer)
        assert setting.teach(queries=queries) == 0
        found = {a.segment: a for a in setting.answers()}
        assert len(asked) == 2 and list(found) == ["s0", "s1", "twin"]
        assert found["twin"].answer == found["s0"].answer

    def test_a_lost_record_has_its_whole_batch_asked_again_and_is_alone_written(self, setting, monkeypatch):
        """What goes through the model together decides its rounding, so it must not hang on what is there."""
        assert setting.teach() == 0
        whole = setting.bytes()
        lines = whole.decode().splitlines(keepends=True)
        changed = lines[6].replace('"answer": "', '"answer": "kept ')
        (setting.root / "out" / "answers.jsonl").write_text("".join([*lines[:6], changed, *lines[8:]]))
        asked = []
        original = teacher.Teacher.answer

        def answer(self, clips, questions):
            asked.append(questions)
            return original(self, clips, questions)

        monkeypatch.setattr(teacher.Teacher, "answer", answer)
        assert setting.teach() == 0
        queries = [json.loads(line)["query"] for line in lines]
        assert asked == [[queries[6:9], queries[9:12]]]
        assert setting.bytes().decode().splitlines(keepends=True) == [*lines[:6], changed, *lines[7:]]

    def test_logits_can_be_added(self, setting):
        assert setting.teach() == 0
        before = setting.bytes()
        assert setting.teach(top_k=2) == 0
        assert setting.bytes() == before
        for answer in setting.answers():
            assert load_top_k(setting.root / "out", answer.key).ids.shape == (NEW, 2)

    def test_a_run_without_answers_binds_nobody(self, setting, monkeypatch):
        monkeypatch.setattr(teacher, "load", lambda *_a, **_k: sys.exit(3))
        with pytest.raises(SystemExit):
            setting.teach(seed=7)
        monkeypatch.undo()
        assert (setting.root / "out" / "manifest.json").is_file()
        assert setting.teach() == 0

    def test_a_damaged_manifest(self, setting, no_model, capsys):
        assert setting.teach() == 0
        (setting.root / "out" / "manifest.json").write_text('{"teacher": 3}')
        no_model()
        assert setting.teach() == 1
        assert "manifest.json is damaged" in (message := error_of(capsys)) and "answers stay" in message

    def test_two_runs_at_once(self, setting, capsys):
        import fcntl

        (setting.root / "out").mkdir()
        with (setting.root / "out" / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert setting.teach() == 1
        assert "another run is at work" in error_of(capsys)


def test_an_estimate_keeps_its_answers(setting, capsys):
    assert setting.teach("whole") == 0
    capsys.readouterr()
    assert setting.teach(estimate=3, batch_size=1) == 0
    text = capsys.readouterr().out
    assert re.search(rf"left: 2 clips, about [0-9.]+ (seconds|minutes) and {2 * 3 * NEW} tokens", text)
    early = setting.answers()
    assert len(early) == 9 and not (setting.root / "out" / "answers.jsonl").exists()
    assert setting.teach(batch_size=1) == 0
    assert len(setting.answers()) == 15 and all(a in setting.answers() for a in early)
    assert setting.teach(estimate=3, batch_size=1) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_an_estimate_of_few_clips_is_told_with_their_answers(setting, capsys):
    assert setting.teach(estimate=16) == 0
    text = capsys.readouterr().out
    assert re.search(r"timed \d clip\(s\): [0-9.]+ s a clip", text) and "left: nothing" in text
    assert "15 of 15 answers" in text and (setting.root / "out" / "answers.jsonl").is_file()


def test_durations():
    from llava_ego2exo.distill.estimate import _duration

    assert [_duration(s) for s in (4.26, 150.0, 9000.0)] == ["4.3 seconds", "2.5 minutes", "2.5 hours"]


def test_the_times_are_told_and_a_part_is_seen_as_if_cut(setting, monkeypatch):
    pairs = read_pairs(setting.pairs)
    setting.change(dataclasses.replace(pairs[4], start_s=1.0, end_s=3.0))
    asked = []
    original = teacher.Teacher.answer

    def answer(self, clips, questions):
        asked.append(([clip.shape[0] for clip in clips], questions))
        return original(self, clips, questions)

    monkeypatch.setattr(teacher.Teacher, "answer", answer)
    assert setting.teach(time_instruction="True") == 0
    ((frames, ((question, *_),)),) = asked
    assert frames == [2]
    assert question.startswith("The video lasts for 2.00 seconds, and 2 frames") and "0.00s,1.00s." in question
    answers = setting.answers()
    assert question.split("\n")[1] == answers[0].query and "\n" not in answers[0].query
    assert (answers[0].start_s, answers[0].end_s) == (1.0, 3.0)
    assert answers[0].settings["time_instruction"] is True


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"model": "nowhere"}, "no readable config.json at 'nowhere'"),
        ({"template": "qwen_99"}, "conversation template 'qwen_99'"),
        ({"split": "val"}, "--split val: .* has no such pair. Allowed: train, all"),
        ({"frames_upbound": -1}, "--frames-upbound -1"),
        ({"frames_upbound": 0, "force_sample": "True"}, "--force-sample True with --frames-upbound 0"),
        ({"video_fps": 0}, "--video-fps 0"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0"),
        ({"max_new_tokens": 100000}, "--max-new-tokens 100000, and the model has 2048 positions.*a smaller"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"top_k": -1}, "--top-k -1"),
        ({"top_k": 99999}, "--top-k 99999.*the vocabulary"),
        ({"max_failures": -1}, "--max-failures -1"),
        ({"queries": "nowhere.json"}, "nowhere.json cannot be read"),
        ({"pairs": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
    ],
    ids=str,
)
def test_wrong_input_is_refused_before_work(setting, no_model, capsys, flags, reason):
    no_model()
    assert setting.teach(**flags) == 1
    assert re.search(reason, error_of(capsys))
    assert not (setting.root / "out").exists()


def test_wrong_checkpoints(setting, world, tmp_path, no_model, capsys, monkeypatch):
    no_model()
    assert setting.teach(model_base=setting.model) == 1
    assert "holds a whole model, and model_base" in error_of(capsys)
    assert setting.teach(model=world.base("llama"), template=None) == 1
    assert "without chat template" in error_of(capsys)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "bitsandbytes", None)
        patch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "bitsandbytes" else find_spec(name))
        assert setting.teach(bits=4) == 1
        assert "bitsandbytes is not installed" in error_of(capsys)
    (setting.root / "file").write_text("")
    assert setting.teach("file") == 1
    assert "file cannot be written" in error_of(capsys)
    empty = tmp_path / f"empty_{setting.kind}"
    shutil.copytree(setting.model, empty, ignore=shutil.ignore_patterns("*.safetensors"))
    assert setting.teach(model=empty) == 1
    assert "holds no weights" in error_of(capsys)
