"""One seed of the demo, from drawing clips to answers: the user's own commands, side by side where none waits."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..common.files import write_atomic
from ..errors import Ego2ExoError
from .cache import PAIRS_SEED, TESTS_SEED, Base
from .cameras import VIEWS, draw, write_clip
from .models import turns
from .students import FRAMES, training_command
from .variants import Plan
from .world import Event, Scene, queries, scene_answers, scenes

# Commands in processes of their own, as many at once as keep every core busy.


@dataclass(frozen=True)
class Job:
    """One command and where its output goes.

    Args:
        name: for messages.
        command: as typed, beginning with "python" or "llava-ego2exo".
        folder: working folder; the log is `<name>.log` in it.
        needs: names of jobs that must be done before.
    """

    name: str
    command: Sequence[str]
    folder: Path
    needs: frozenset[str] = frozenset()

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


def shown(command: Sequence[str]) -> str:
    """A command line as it can be pasted into a shell, one flag a line."""
    return " ".join(f"\\\n    {part}" if part.startswith("--") else shlex.quote(part) for part in command)


def losses(log: Path) -> list[tuple[int, float]]:
    """(step, loss) as a training run's output tells them."""
    text = log.read_text(errors="replace") if log.exists() else ""
    logged = re.findall(r"'loss': '?([\d.e+-]+)", text)
    return [(10 * (index + 1), float(value)) for index, value in enumerate(logged)]


def run_all(jobs: Iterable[Job], say: Callable[[str], None], at_once: int | None = None, every: float = 30.0) -> None:
    """Run commands, some at a time, and say how far they are.

    Args:
        jobs: in this order, a job that waits for another one being passed over until then.
        say: prints one line.
        at_once: processes at the same time, one thread each; None takes one more than there are cores.
        every: seconds between two lines of progress.

    Raises:
        Ego2ExoError: a command failed; the others are ended, and the end of its output is in the message.
    """
    waiting, running, done, told = list(jobs), [], set(), time.monotonic()
    # Three alike on two cores end together, sooner than two of them and then the third on one core alone.
    at_once = at_once or usable_cores() + 1
    try:
        while waiting or running:
            for job in [job for job in waiting if job.needs <= done][: at_once - len(running)]:
                waiting.remove(job)
                running.append((job, _start(job)))
            time.sleep(0.2)
            for job, process in [pair for pair in running if pair[1].poll() is not None]:
                running.remove((job, process))
                done.add(job.name)
                if process.returncode:
                    raise _failed(job, process.returncode)
            if running and time.monotonic() - told > every:
                told = time.monotonic()
                say("; ".join(_progress(job) for job, _ in running))
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()


def usable_cores() -> int:
    """Cores this process may run on, or all there are where the system cannot tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(job: Job) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)
    # Small matrices are faster on one thread, and two runs side by side use two cores better than one run does.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, *job.command[1:]]
    if job.command[0] == "llava-ego2exo":
        program = [sys.executable, "-m", "llava_ego2exo", *job.command[1:]]
    with job.log.open("wb") as stream:
        return subprocess.Popen(program, cwd=job.folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def _progress(job: Job) -> str:
    known = losses(job.log)
    return f"{job.name}: step {known[-1][0]}, loss {known[-1][1]:.3f}" if known else f"{job.name}: running"


def _failed(job: Job, code: int) -> Ego2ExoError:
    lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if "error: " in line), None)
    return Ego2ExoError(
        f"{job.name} ended with exit code {code}: {told or ' / '.join(lines[-5:])}", "", f"read all of it in {job.log}"
    )


# The files of one demo run: paired clips to learn from, held-out clips to be asked about, queries and captions.

_SUFFIXES = {"ego": "ego", "exo": "exo1"}


def write_material(folder: Path, plan: Plan, seed: int) -> list[tuple[Scene, Path, Path]]:
    """Draw everything that a seed's students need.

    Writes `pairs/` (clips by the keystep naming), `tests/` and `tests.json` (clips of held-out combinations with what
    they show), `queries.json` for the teacher, and `control.json`, the exo clips with captions of what is plain there.

    Returns:
        The tests: scene, ego file, exo file.
    """
    training = list(scenes(plan.pairs, 100 * seed + PAIRS_SEED))
    files = _write_clips(folder / "pairs", training)
    write_atomic(folder / "queries.json", json.dumps(queries(), indent=1))
    captions = [
        {"id": f"{exo.stem}_{number}", "video": exo.name, "conversations": turns(pair)}
        for scene, (_, exo) in zip(training, files, strict=True)
        for number, pair in enumerate(scene_answers(scene))
    ]
    write_atomic(folder / "control.json", json.dumps(captions, indent=1))
    asked = list(scenes(plan.tests, 100 * seed + TESTS_SEED, held_out=True))
    tests = [(scene, *pair) for scene, pair in zip(asked, _write_clips(folder / "tests", asked), strict=True)]
    kept = [{"scene": asdict(scene), "ego": str(ego), "exo": str(exo)} for scene, ego, exo in tests]
    write_atomic(folder / "tests.json", json.dumps(kept, indent=1))
    return tests


def read_tests(file: Path, view: str) -> list[tuple[Scene, Path]]:
    """Scenes of a `tests.json`, each with its file of one view."""
    return [(_scene(entry["scene"]), Path(entry[view])) for entry in json.loads(file.read_text())]


def _scene(values: dict[str, object]) -> Scene:
    events = tuple(Event(**event) for event in values["events"])  # type: ignore[attr-defined]
    return Scene(**{**values, "events": events, "clutter": tuple(values["clutter"])})  # type: ignore[arg-type]


def _write_clips(folder: Path, shown: Sequence[Scene]) -> list[tuple[Path, Path]]:
    folder.mkdir()
    pairs = []
    for index, scene in enumerate(shown):
        files = [folder / f"clip{index:05d}_{_SUFFIXES[view]}.mp4" for view in VIEWS]
        for view, file in zip(VIEWS, files, strict=True):
            write_clip(file, draw(scene, view))
        pairs.append((files[0], files[1]))
    return pairs


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
