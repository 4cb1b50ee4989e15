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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common.files import write_atomic
from ..errors import Ego2ExoError
from .cameras import VIEWS, draw, write_clip
from .models import FRAMES, PAIRS_SEED, POOLING, TEMPLATES, TESTS_SEED, Base, turns
from .variants import DemoPlan
from .world import Event, Scene, queries, scene_answers, scenes

_SUFFIXES = {"ego": "ego", "exo": "exo1"}


@dataclass(frozen=True)
class Command:
    """One command, run in a process of its own after those that it needs; its log is `<name>.log` in its folder."""

    name: str
    words: Sequence[str]  # as typed, beginning with "python" or "llava-ego2exo"
    folder: Path
    needs: frozenset[str] = frozenset()

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


def shell_text(words: Sequence[str]) -> str:
    """A command line as it can be pasted into a shell, one flag a line."""
    return " ".join(f"\\\n    {word}" if word.startswith("--") else shlex.quote(word) for word in words)


def losses(log: Path) -> list[tuple[int, float]]:
    """(step, loss) as a training run logs them, every ten steps."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return [(10 * count, float(value)) for count, value in enumerate(re.findall(r"'loss': '?([\d.e+-]+)", text), 1)]


def run_all(commands: Iterable[Command], say: Callable[[str], None], every: float = 30.0) -> None:
    """Run commands, as many at once as keep every core busy, and report their progress each `every` seconds.

    Raises:
        Ego2ExoError: a command failed; the others are ended, and the end of its output is in the message.
    """
    waiting, running, done, reported = list(commands), {}, set(), time.monotonic()
    # Three alike on two cores end together, sooner than two of them and then the third on one core alone.
    at_once = 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        while waiting or running:
            for command in [one for one in waiting if one.needs <= done][: at_once - len(running)]:
                waiting.remove(command)
                running[command.name] = command, _start(command)
            time.sleep(0.2)
            for command, process in [pair for pair in running.values() if pair[1].poll() is not None]:
                del running[command.name]
                done.add(command.name)
                if process.returncode:
                    raise _failed(command, process.returncode)
            if running and time.monotonic() - reported > every:
                reported = time.monotonic()
                say("; ".join(_progress(command) for command, _ in running.values()))
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def _start(command: Command) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)
    # Small matrices are faster on one thread, and two runs side by side use two cores better than one run does.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    module = ["-m", "llava_ego2exo"] if command.words[0] == "llava-ego2exo" else []
    program = [sys.executable, *module, *command.words[1:]]
    with command.log.open("wb") as stream:
        return subprocess.Popen(program, cwd=command.folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def _progress(command: Command) -> str:
    known = losses(command.log)
    return f"{command.name}: " + (f"step {known[-1][0]}, loss {known[-1][1]:.3f}" if known else "running")


def _failed(command: Command, code: int) -> Ego2ExoError:
    lines = [line for line in command.log.read_text(errors="replace").splitlines() if line.strip()]
    error = next((line for line in reversed(lines) if "error: " in line), " / ".join(lines[-5:]))
    return Ego2ExoError(f"{command.name} ended with exit code {code}: {error}", "", f"read all of it in {command.log}")


@dataclass(frozen=True)
class SeedRun:
    """What one seed gave.

    Args:
        folder: of everything that it wrote.
        base: what its students were trained from.
        tests: scene, ego file, exo file of each held-out clip.
        exams: variant -> ablation -> {"chosen", "percent"}, as :mod:`.exam` writes them.
        curves: variant -> (step, loss).
        commands: what was typed, in order.
    """

    folder: Path
    base: Base
    tests: list[tuple[Scene, Path, Path]]
    exams: dict[str, dict[str, dict[str, Any]]]
    curves: dict[str, list[tuple[int, float]]]
    commands: list[Sequence[str]]

    def student(self, variant: str) -> Path:
        """Its checkpoint."""
        return self.folder / f"student-{variant}"


def run_seed(plan: DemoPlan, seed: int, base: Base, folder: Path, say: Callable[[str], None]) -> SeedRun:
    """Draw clips, let the teacher answer, train the students, ask all models.

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
    commands = [*_distillation(seed, base, folder), *_students(plan, seed, base, folder)]
    exams = [_exam(name, base, folder, trained=name in plan.variants) for name in (*plan.variants, "base", "teacher")]
    run_all([*commands, *exams], say)
    names = ["base", *plan.variants, "teacher"]
    answers = {name: json.loads((folder / f"exam-{name}.json").read_text()) for name in names}
    curves = {name: losses(folder / f"{name}.log") for name in plan.variants}
    return SeedRun(folder, base, tests, answers, curves, [command.words for command in commands])


def write_material(folder: Path, plan: DemoPlan, seed: int) -> list[tuple[Scene, Path, Path]]:
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
    tests = []
    for entry in json.loads(file.read_text()):
        values = entry["scene"]
        changed = {"events": tuple(Event(**event) for event in values["events"]), "clutter": tuple(values["clutter"])}
        tests.append((Scene(**{**values, **changed}), Path(entry[view])))
    return tests


def _write_clips(folder: Path, shown: Sequence[Scene]) -> list[tuple[Path, Path]]:
    folder.mkdir()
    pairs = []
    for index, scene in enumerate(shown):
        files = [folder / f"clip{index:05d}_{_SUFFIXES[view]}.mp4" for view in VIEWS]
        for view, file in zip(VIEWS, files, strict=True):
            write_clip(file, draw(scene, view))
        pairs.append((files[0], files[1]))
    return pairs


def _distillation(seed: int, base: Base, folder: Path) -> list[Command]:
    """Pairs, the teacher's answers, and the training file."""
    pairs, needs, commands = "pairs/pairs.jsonl", frozenset(), []
    for line in (
        f"pairs build --videos pairs --out {pairs}",
        f"teach --pairs {pairs} --out answers --queries queries.json --template {base.template} "
        f"--frames-upbound {FRAMES} --max-new-tokens 40 --batch-size 32 --model",
        f"targets --pairs {pairs} --answers answers --out distill.json --seed {seed}",
    ):
        name, *rest = line.split()
        model = [str(base.model)] if name == "teach" else []  # its path may hold blanks
        commands.append(Command(name, ["llava-ego2exo", name, *rest, *model], folder, needs))
        needs = frozenset({name})
    return commands


def _students(plan: DemoPlan, seed: int, base: Base, folder: Path) -> list[Command]:
    commands = []
    for name in plan.variants:
        data, needs = ("control.json", ()) if name == "control" else ("distill.json", ("targets",))
        flags = {
            "max_steps": plan.steps, "per_device_train_batch_size": plan.batch, "seed": seed,
            "learning_rate": plan.rate, "mm_projector_lr": plan.rate, **plan.flags(name),
        }  # fmt: skip
        command = training_command(base, data, f"student-{name}", flags)
        commands.append(Command(name, command, folder, frozenset(needs)))
    return commands


def training_command(base: Base, data: str, out: str, flags: dict[str, Any]) -> list[str]:
    """LLaVA's training command for one student; `data` and `out` are relative to the run's folder.

    A run without --ego2exo is LLaVA's own, which takes none of these settings from the base checkpoint: they are given.
    """
    import torch

    from ..host.hooks.flavour import NEXT, detect

    pooling = POOLING if detect() == NEXT else {}
    values = {
        "model_name_or_path": base.model, "version": TEMPLATES[base.kind], "data_path": data, "video_folder": "pairs",
        "output_dir": out, "vision_tower": base.tower, "vision_tower_dtype": "float32", "mm_vision_select_layer": -2,
        "mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "flat", "image_aspect_ratio": "square",
        "mm_use_im_patch_token": False, **pooling, "frames_upbound": FRAMES, "model_max_length": 1024,
        "lora_enable": True, "lora_r": 16, "lora_alpha": 32, "lr_scheduler_type": "cosine", "warmup_ratio": 0.05,
        "weight_decay": 0.0, "logging_steps": 10, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "gradient_checkpointing": False, "dataloader_num_workers": 1, **flags,
        **({} if torch.cuda.is_available() else {"use_cpu": True}),
    }  # fmt: skip
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return ["python", "-m", "llava_ego2exo.train", *words]


def _exam(name: str, base: Base, folder: Path, trained: bool) -> Command:
    model = [f"student-{name}", "--base", str(base.model)] if trained else [str(base.model)]
    view = "ego" if name == "teacher" else "exo"
    words = ["python", "-m", "llava_ego2exo.demo.exam", *model, "--tests", "tests.json", "--view", view,
             "--template", base.template, "--out", f"exam-{name}.json"]  # fmt: skip
    return Command(f"exam-{name}", words, folder, frozenset({name} if trained else ()))
