"""One seed of the demo, from drawing clips to answers: the user's own commands, side by side where none waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cache import Base
from .jobs import Job, losses, run_all
from .material import write_material
from .plan import Plan
from .students import FRAMES, training_command
from .world import Scene


@dataclass(frozen=True)
class Seed:
    """What one seed gave.

    Args:
        folder: where everything of it lies.
        base: what its students were trained from.
        tests: scene, ego file, exo file of each held-out clip.
        exams: variant -> how -> {"chosen", "percent"}, as :mod:`.exam` writes them.
        curves: variant -> (step, loss).
        commands: what was typed, in order.
    """

    folder: Path
    base: Base
    tests: list[tuple[Scene, Path, Path]]
    exams: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)


def run_seed(plan: Plan, seed: int, base: Base, folder: Path, say: Callable[[str], None]) -> Seed:
    """Draw, let the teacher answer, train the students, ask everybody.

    Args:
        plan: sizes and variants.
        seed: of clips, draws and training.
        base: what students start from; the teacher, as it stands.
        folder: a new one, for everything.
        say: prints one line.

    Raises:
        Ego2ExoError: a command failed.
    """
    say(f"drawing {plan.pairs} pairs of clips, and {plan.tests} of combinations that training never shows")
    folder.mkdir(parents=True)
    tests = write_material(folder, plan, seed)
    jobs = [*_distillation(plan, seed, base, folder), *_students(plan, seed, base, folder), *_exams(plan, base, folder)]
    run_all(jobs, say)
    names = ["base", *plan.variants, "teacher"]
    exams = {name: json.loads((folder / f"exam-{name}.json").read_text()) for name in names}
    curves = {name: losses(folder / f"{name}.log") for name in plan.variants}
    commands = [list(job.command) for job in jobs if not job.name.startswith("exam-")]
    return Seed(folder, base, tests, exams, curves, commands)


def _distillation(plan: Plan, seed: int, base: Base, folder: Path) -> list[Job]:
    """Pairs, the teacher's answers, and the training file."""
    build = ["pairs", "build", "--videos", "pairs", "--out", "pairs/pairs.jsonl"]
    teach = ["teach", "--pairs", "pairs/pairs.jsonl", "--model", str(base.model), "--out", "answers",
             "--queries", "queries.json", "--template", base.template, "--frames-upbound", str(FRAMES),
             "--max-new-tokens", "40", "--batch-size", "32"]  # fmt: skip
    targets = ["targets", "--pairs", "pairs/pairs.jsonl", "--answers", "answers", "--out", "distill.json",
               "--seed", str(seed)]  # fmt: skip
    before: frozenset[str] = frozenset()
    jobs = []
    for name, arguments in (("pairs", build), ("teach", teach), ("targets", targets)):
        jobs.append(Job(name, ["llava-ego2exo", *arguments], folder, before))
        before = frozenset({name})
    return jobs


def _students(plan: Plan, seed: int, base: Base, folder: Path) -> list[Job]:
    jobs = []
    for name in plan.variants:
        data = "control.json" if name == "control" else "distill.json"
        rates = {"learning_rate": plan.rate, "mm_projector_lr": plan.rate}
        sizes = {"max_steps": plan.steps, "per_device_train_batch_size": plan.batch, "seed": seed}
        flags = {**sizes, **rates, **plan.flags(name)}
        command = training_command(str(base.model), base.kind, base.tower, data, f"student-{name}", flags)
        jobs.append(Job(name, command, folder, frozenset() if name == "control" else frozenset({"targets"})))
    return jobs


def _exams(plan: Plan, base: Base, folder: Path) -> list[Job]:
    jobs = []
    for name in (*plan.variants, "base", "teacher"):
        trained = name in plan.variants
        model = [f"student-{name}", "--base", str(base.model)] if trained else [str(base.model)]
        command = ["python", "-m", "llava_ego2exo.demo.exam", *model, "--tests", "tests.json", "--template",
                   base.template, "--view", "ego" if name == "teacher" else "exo",
                   "--out", f"exam-{name}.json"]  # fmt: skip
        jobs.append(Job(f"exam-{name}", command, folder, frozenset({name} if trained else ())))
    return jobs
