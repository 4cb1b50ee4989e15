"""The demo: its parts, a base that learns what it is shown, and one small run of the whole pipeline."""

import dataclasses
import importlib.util
import json
import re
import sys
import time
from pathlib import Path

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.demo import __main__ as demo
from llava_ego2exo.demo import base as bases
from llava_ego2exo.demo import encoder, models, pipeline
from llava_ego2exo.demo.cameras import read_tests, write_material
from llava_ego2exo.demo.exam import written_scores
from llava_ego2exo.demo.pipeline import Command, losses, run_all
from llava_ego2exo.demo.variants import DEFAULT, FRAMES, FULL, QUICK, STUDENTS, DemoPlan
from llava_ego2exo.demo.world import (
    HANDS,
    HELD_OUT,
    OBJECTS,
    QUESTION_TYPES,
    REGIONS,
    chance,
    describe,
    scenes,
    vocabulary,
)

needs_llava = pytest.mark.skipif(importlib.util.find_spec("llava") is None, reason="no llava is importable")
TINY = DemoPlan(("control", "distill", "pooled-8+tokens-16"), encoder_scenes=20, encoder_steps=2, base_scenes=12,
            base_steps=40, pairs=8, steps=10, batch=2, tests=6)  # fmt: skip


def python(name, code, folder, *needs):
    return Command(name, ["python", "-c", code], folder, frozenset(needs))


def test_jobs_wait_for_what_they_need_and_report_progress(tmp_path):
    write = "import pathlib,time; print(\"{'loss': 1.5}\", flush=True); time.sleep(0.8); pathlib.Path('x').touch()"
    read = "import pathlib; assert pathlib.Path('x').exists()"
    lines = []
    run_all([python("second", read, tmp_path, "one"), python("one", write, tmp_path)], lines.append, every=0.3)
    assert lines[-1] == "one: step 10, loss 1.500"


def test_done_jobs_are_kept_until_one_that_they_need_is_another(tmp_path):
    def run(*codes):
        lines = []
        names = zip(("a", "b", "c"), codes, ((), ("a",), ("b",)), strict=True)
        run_all([python(name, code, tmp_path, *needs) for name, code, needs in names], lines.append)
        return lines

    a, b, c = (f"open('{name}.txt', 'a').write('x')" for name in "abc")
    with pytest.raises(Ego2ExoError):
        run(a, b, "raise SystemExit(1)")
    assert run(a, b, c) == ["2 of 3 commands are done already"]
    assert run(a, b + "; 1", c) == ["1 of 3 commands are done already"]
    assert [(tmp_path / f"{name}.txt").read_text() for name in "abc"] == ["x", "xx", "xx"]


def test_a_failed_job_ends_the_others(tmp_path):
    bad = "import time,sys; time.sleep(0.3); print('noise'); sys.exit('llava_ego2exo: error: no such clip.')"
    started = time.monotonic()
    with pytest.raises(Ego2ExoError, match=r"exit code 1: llava_ego2exo: error: no such clip.*bad\.log"):
        run_all([python("long", "import time; time.sleep(60)", tmp_path), python("bad", bad, tmp_path)], print)
    assert time.monotonic() - started < 30


def test_losses_are_read_from_the_log(tmp_path):
    (tmp_path / "a.log").write_text("x {'loss': 2.5, 'epoch': 0.1}\n{'loss': '1e-3', 'lr': 3}\n{'train_loss': 9.0}\n")
    assert losses(tmp_path / "a.log") == [(10, 2.5), (20, 0.001)] and losses(tmp_path / "none.log") == []


def test_material_of_a_seed(tmp_path):
    tests = write_material(tmp_path, TINY, 0)
    assert len(list((tmp_path / "pairs").iterdir())) == 2 * TINY.pairs and list(tests) == ["trained", "held-out"]
    read = read_tests(tmp_path / "tests.json", "exo")
    for split, clips in tests.items():
        shown = {frozenset(event.object for event in scene.events) for scene, *_ in clips}
        assert len(clips) == TINY.tests and read[split] == [(scene, file) for scene, _, file in clips]
        assert shown <= HELD_OUT if split == "held-out" else not shown & HELD_OUT
    control = json.loads((tmp_path / "control.json").read_text())
    assert {sample["video"] for sample in control} == {f"clip{i:05d}_exo1.mp4" for i in range(TINY.pairs)}
    assert all("ego_video" not in sample for sample in control)
    names = " ".join(path.name for path in tmp_path.rglob("*"))  # a name must not give an answer away
    assert not [word for word in (*HANDS, *OBJECTS, *(r.replace(" ", "_") for r in REGIONS)) if word in names]


def test_a_finished_base_is_used_again_and_an_unfinished_one_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("llava_ego2exo.host.hooks.flavour.detect", lambda: "next")
    made = []

    def make(plan, base, say):
        base.model.mkdir()
        made.append(base)
        if len(made) == 1:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(bases, "make_base", make)
    monkeypatch.setattr(bases, "pack", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        bases.get_base(TINY, tmp_path, print)
    first, second = (bases.get_base(TINY, tmp_path, print) for _ in range(2))
    assert first == second and len(made) == 2 and first.template == "qwen_1_5"
    bases.get_base(dataclasses.replace(TINY, base_steps=3), tmp_path, print)
    assert len({base.model for base in made}) == 2
    bases.get_base(dataclasses.replace(TINY, steps=3, tests=5), tmp_path, print)
    assert len(made) == 3
    bases.get_base(TINY, tmp_path, print, rebuild=True)
    assert len(made) == 4


def test_flags():
    for flags, plan in ((), DEFAULT), (["--full"], FULL), (["--quick"], QUICK):
        assert demo.plan_of(demo.parse(flags)) == plan
    assert demo.plan_of(demo.parse(["--full", "--variants", "tokens-8", "distill"])).variants == ("tokens-8", "distill")
    plan = demo.plan_of(demo.parse(["--add", "slow: --ego2exo True --ego2exo_lr 0.001", "--add", "n32:--x 32"]))
    assert plan.variants == (*DEFAULT.variants, "slow", "n32")
    assert plan.flags("slow") == {"ego2exo": "True", "ego2exo_lr": "0.001"} and plan.flags("distill") == {}
    for wrong in (["--seeds", "0"], ["--variants", "tokens-5"]):
        with pytest.raises(SystemExit):
            demo.parse(wrong)


def test_wrong_input_is_refused(tmp_path, capsys, monkeypatch):
    for text in ("no flags", "a: --flag", "a: flag value", "distill: --ego2exo True", "a/b: --x 1"):
        assert demo.main(["--add", text]) == 1
        assert "'NAME: --flag value ...'" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("kept")
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "kept"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert demo.main([]) == 1
    assert "llava-ego2exo[report]" in capsys.readouterr().err


def test_descriptions_are_scored_by_their_facts():
    (scene,) = scenes(1, seed=3)
    right, (first, second) = describe(scene), scene.events
    other = next(name for name in OBJECTS if name not in (first.object, second.object))
    texts = {right: (6, 1), right.replace(second.object, other): (5, 0), right.split(",")[0] + ".": (3, 0), "": (0, 0)}
    for text, (facts, whole) in texts.items():
        assert written_scores([text], [scene]) == {"facts": pytest.approx(100 * facts / 6), "whole": 100.0 * whole}
    scores = written_scores(list(texts), [scene] * 4)
    assert scores == {"facts": pytest.approx(100 * 14 / 24), "whole": 25.0}


def test_training_commands_of_every_variant(training_parser):
    """LLaVA's parser takes them all; what a name says of visual tokens is what its flags give."""
    base = bases.Base(Path("base"), Path("tower"), "qwen")
    for name in STUDENTS:
        command = pipeline.training_command(base, "distill.json", "out", DEFAULT.flags(name))
        parsed, left_over = training_parser.parse_known_args(command[3:])
        assert not left_over and bool(parsed.ego2exo) == ("tokens" in name or "policy" in name)
        rows, columns = map(int, (parsed.ego2exo_pool or bases.POOLING["ego2exo_pool"]).split("x"))
        ordinary = FRAMES * rows * columns if parsed.ego2exo_visual_tokens else 0
        pooled, tokens = (re.search(rf"{word}-(\d+)", name) for word in ("pooled", "tokens"))
        assert ordinary == (int(pooled[1]) if pooled else 0 if name.startswith("tokens") else 144)
        assert not tokens or parsed.ego2exo_num_tokens == int(tokens[1])


def test_a_forked_job_runs_in_its_folder_and_its_errors_are_shown(tmp_path):
    run_all([Command("one", (), tmp_path, call=lambda: Path("x").write_text("done"))], print)
    assert (tmp_path / "x").read_text() == "done"

    def fail():
        raise Ego2ExoError("no such clip")

    with pytest.raises(Ego2ExoError, match=r"exit code 1: .*no such clip.*two\.log"):
        run_all([Command("two", (), tmp_path, call=fail)], print)


@needs_llava
def test_the_shipped_base_is_what_its_script_makes(tmp_path):
    """Made by today's code and sizes; training it anew begins with the losses that its own training began with."""
    kind = bases.host_kind()
    file, base = bases.SHIPPED / f"{kind}.safetensors", bases.Base(tmp_path / f"base_{kind}", tmp_path / "tower", kind)
    assert bases.packed_key(file) == bases.base_key(DEFAULT, kind)
    curve, again = bases.read_curve(file), []

    class Enough(Exception):
        pass

    def until(steps):
        def report(step, loss):
            again.append(loss)
            if step == steps - 1:
                raise Enough

        return report

    training = list(scenes(DEFAULT.base_scenes, bases.BASE_SEED))
    with pytest.raises(Enough):
        encoder.pretrain(training[: DEFAULT.encoder_scenes], base.tower, 0, DEFAULT.encoder_steps, until(10))
    bases.unpack(file, base)
    models.tiny_llava(base.model, kind, 0, base.tower, vocabulary(), bases.PHRASES, bases.SIZES, **bases.POOLING)
    material = {"ego": training, "exo": training[: DEFAULT.base_scenes // 2]}
    with pytest.raises(Enough):
        bases.train_base(base.model, material, base.template, 0, DEFAULT.base_steps, until(3))
    began = DEFAULT.encoder_steps
    # The base was trained on the tower before that was packed in half precision.
    assert again == pytest.approx([*curve[:10], *curve[began : began + 3]], rel=0.005)


@needs_llava
def test_a_base_learns_what_it_is_shown(tmp_path):
    """Far too few clips to understand any other one, but the answers about these are learnt and read by the exam."""
    from llava_ego2exo.demo.exam import examine_model

    kind, tower = bases.host_kind(), tmp_path / "tower"
    encoder.new_tower().save_pretrained(tower)
    encoder.processor().save_pretrained(tower)
    made = (vocabulary(), bases.PHRASES, bases.SIZES)
    base = models.tiny_llava(tmp_path / f"base_{kind}", kind, 0, tower, *made, **bases.POOLING)
    tests = [(scene, ego) for scene, ego, _ in write_material(tmp_path, TINY, 0)["trained"][:4]]
    shown = {"ego": [scene for scene, _ in tests]}
    bases.train_base(base, shown, bases.TEMPLATES[kind], 0, 300, lambda *_: None, batch=16)
    exam = examine_model(base, None, {"trained": tests, "held-out": tests[:2]}, bases.TEMPLATES[kind])
    percent = exam["splits"]["trained"]["none"]["percent"]
    assert sum(percent.values()) > sum(chance().values()) + 100, percent


@needs_llava
@pytest.mark.slow
def test_the_whole_pipeline(tmp_path, monkeypatch, capsys):
    """Steps too few to learn anything: that every command runs, and the form of the results."""
    from llava_ego2exo import cli

    def run_here(commands, say):
        """Training as it is typed; the others in this process, which need not import torch again."""
        for command in commands:
            monkeypatch.chdir(command.folder)
            if command.name in TINY.variants:
                run_all([dataclasses.replace(command, needs=frozenset())], say)
            elif command.call is not None:
                command.call()
            else:
                assert cli.main(command.words[1:]) == 0

    monkeypatch.setattr(pipeline, "run_all", run_here)
    monkeypatch.setattr(demo, "QUICK", TINY)
    out = tmp_path / "out"
    assert demo.main(["--quick", "--out", str(out), "--cache", str(tmp_path / "cache")]) == 0
    text = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["variants"]) == {"base", *TINY.variants, "teacher", "chance"}
    for types in metrics["variants"].values():
        written = set() if types is metrics["variants"]["chance"] else {"facts", "whole"}
        assert set(types) == {*QUESTION_TYPES, "mean", "trained", "both"} | written
        assert types["mean"]["mean"] == pytest.approx(sum(types[kind]["mean"] for kind in QUESTION_TYPES) / 4)
    means = {name: types["mean"]["mean"] for name, types in metrics["variants"].items()}
    assert f"{means['distill'] - means['control']:+.1f}" in text
    assert set(metrics["ablations"]["pooled-8+tokens-16"]) == {"none", "removed", "other clip", "alone"}
    for name in ("--ego2exo True", "--ego2exo_bottleneck 0.5", "teach", "targets", "report.html"):
        assert name in text
    samples = json.loads((out / "seed0/distill.json").read_text())
    assert 0 < len(samples) <= 3 * TINY.pairs and all(s["ego_video"].endswith("_ego.mp4") for s in samples)
    assert "<svg" in (out / "report.html").read_text() and "<svg" in (out / "picture.svg").read_text()
