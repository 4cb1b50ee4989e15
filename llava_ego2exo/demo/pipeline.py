"""One seed of the demo, from drawing clips to answers: the user's own commands, side by side where none waits."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import write_atomic
from ..errors import Ego2ExoError
from .base import Base
from .cameras import VIEWS, cores, read_tests, write_material
from .exam import main as exam
from .variants import FRAMES, DemoPlan
from .world import Scene

PROBE_SEED = 4


@dataclass(frozen=True)
class Command:
    """One command, run in a process of its own after those that it needs; its log is `<name>.log` in its folder.

    With `call` the process is a copy of this one, which calls it and need not import anything again. When it has
    succeeded, what was typed is kept in `<name>.done`.
    """

    name: str
    words: Sequence[str]  # as typed, beginning with "python" or "llava-ego2exo"
    folder: Path
    needs: frozenset[str] = frozenset()
    call: Callable[[], object] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def mark(self) -> Path:
        return self.folder / f"{self.name}.done"

    @property
    def done(self) -> bool:
        """Whether the same command has succeeded before."""
        return self.mark.is_file() and self.mark.read_text() == shell_text(self.words)


def shell_text(words: Sequence[str]) -> str:
    """A command line as it can be pasted into a shell, one flag a line."""
    return " ".join(f"\\\n    {word}" if word.startswith("--") else shlex.quote(word) for word in words)


def losses(log: Path) -> list[tuple[int, float]]:
    """(step, loss) as a training run logs them, every ten steps."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return [(10 * count, float(value)) for count, value in enumerate(re.findall(r"'loss': '?([\d.e+-]+)", text), 1)]


def run_all(commands: Iterable[Command], say: Callable[[str], None], every: float = 30.0) -> None:
    """Run commands, one on each core, and report their progress each `every` seconds.

    What an earlier run has done is kept, unless something that it needs is run anew.

    Raises:
        Ego2ExoError: a command failed; the others are ended, and the end of its output is in the message.
    """
    waiting, running, done, reported = list(commands), {}, set(), time.monotonic()
    while kept := [one for one in waiting if one.done and one.needs <= done]:
        waiting = [one for one in waiting if one not in kept]
        done |= {one.name for one in kept}
    for command in waiting:
        command.mark.unlink(missing_ok=True)
    if done:
        say(f"{len(done)} of {len(done) + len(waiting)} commands are done already")
    try:
        while waiting or running:
            ready = [one for one in waiting if one.needs <= done]
            for command in ready[: cores() - len(running)]:
                waiting.remove(command)
                running[command.name] = command, _start(command)
            time.sleep(0.1)
            for command, process in [pair for pair in running.values() if pair[1].poll() is not None]:
                del running[command.name]
                done.add(command.name)
                if process.returncode:
                    raise _failed(command, process.returncode)
                write_atomic(command.mark, shell_text(command.words))
            if running and time.monotonic() - reported > every:
                reported = time.monotonic()
                say("; ".join(_progress(command) for command, _ in running.values()))
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def _start(command: Command) -> subprocess.Popen[bytes] | _Fork:
    if command.call is not None:
        return _Fork(command.call, command.log, command.folder)
    path = os.pathsep.join(os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)
    # Small matrices are faster on one thread, and two runs side by side use two cores better than one run does.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    module = ["-m", "llava_ego2exo"] if command.words[0] == "llava-ego2exo" else []
    program = [sys.executable, *module, *command.words[1:]]
    with command.log.open("wb") as stream:
        return subprocess.Popen(program, cwd=command.folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)


class _Fork:
    """A copy of this process that makes one call, with what :func:`run_all` uses of `Popen`."""

    def __init__(self, call: Callable[[], object], log: Path, folder: Path) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=self._run, args=(call, log, folder))
        self._process.start()

    @staticmethod
    def _run(call: Callable[[], object], log: Path, folder: Path) -> None:
        import torch

        stream = log.open("w")
        for descriptor in (1, 2):  # what libraries write without Python
            os.dup2(stream.fileno(), descriptor)
        sys.stdout = sys.stderr = stream
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(folder)
        torch.set_num_threads(1)
        call()

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        self._process.join()


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
        tests: of each split: scene, ego file, exo file of each clip.
        exams: variant -> what :mod:`.exam` found.
        probe: view -> attribute -> percent, of :func:`.encoder.probe`.
        curves: variant -> (step, loss).
        commands: what was typed, in order.
    """

    folder: Path
    base: Base
    tests: dict[str, list[tuple[Scene, Path, Path]]]
    exams: dict[str, dict[str, Any]]
    probe: dict[str, dict[str, float]]
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
        folder: for everything; what an earlier run has done there is kept.
        say: prints one line.

    Raises:
        Ego2ExoError: a command failed.
    """
    if not (folder / "tests.json").is_file():  # written last
        say(f"drawing {plan.pairs} pairs of clips, and {plan.tests} each of trained and of held-out pairs of objects")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_material(folder, plan, seed)
    by_view = [read_tests(folder / "tests.json", view) for view in VIEWS]
    tests = {
        split: [(scene, ego, exo) for (scene, ego), (_, exo) in zip(*(view[split] for view in by_view), strict=True)]
        for split in by_view[0]
    }
    commands = [*_distillation(plan, seed, base, folder), *_students(plan, seed, base, folder)]
    names = ["base", *plan.variants, "teacher"]
    asked = [_exam(name, base, folder, trained=name in plan.variants) for name in names]
    run_all([*commands, _probe(base, seed, folder), *asked], say)
    exams = {name: json.loads((folder / f"exam-{name}.json").read_text()) for name in names}
    curves = {name: losses(folder / f"{name}.log") for name in plan.variants}
    probe = json.loads((folder / "probe.json").read_text())
    return SeedRun(folder, base, tests, exams, probe, curves, [command.words for command in commands])


def _distillation(plan: DemoPlan, seed: int, base: Base, folder: Path) -> list[Command]:
    """Pairs, the teacher's answers, and the training file."""
    if set(plan.variants) <= {"control"}:
        return []
    pairs, needs, commands = "pairs/pairs.jsonl", frozenset(), []
    for line in (
        f"pairs build --videos pairs --out {pairs}",
        f"teach --pairs {pairs} --out answers --queries queries.json --template {base.template} "
        f"--frames-upbound {FRAMES} --max-new-tokens 40 --batch-size 64 --model",
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
    """LLaVA's training command for one student; `data` and `out` are relative to the run's folder."""
    import torch

    values = {
        "model_name_or_path": base.model, "version": base.template, "data_path": data, "video_folder": "pairs",
        "output_dir": out, "vision_tower": base.tower, "vision_tower_dtype": "float32", "mm_vision_select_layer": -2,
        "mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "flat", "image_aspect_ratio": "square",
        "mm_use_im_patch_token": False, "frames_upbound": FRAMES, "model_max_length": 1024,
        "lora_enable": True, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.05, "weight_decay": 0.0, "logging_steps": 10, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "gradient_checkpointing": False, "dataloader_num_workers": 0,
        "ego2exo_frame_cache": "frames", **flags, **({} if torch.cuda.is_available() else {"use_cpu": True}),
    }  # fmt: skip
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return ["python", "-m", "llava_ego2exo.train", *words]


def _exam(name: str, base: Base, folder: Path, trained: bool) -> Command:
    model = [f"student-{name}", "--base", str(base.model)] if trained else [str(base.model)]
    view = "ego" if name == "teacher" else "exo"
    words = [*model, "--tests", "tests.json", "--view", view, "--template", base.template, "--out", f"exam-{name}.json"]
    typed = ["python", "-m", "llava_ego2exo.demo.exam", *words]
    return Command(f"exam-{name}", typed, folder, frozenset({name} if trained else ()), functools.partial(exam, words))


def _probe(base: Base, seed: int, folder: Path) -> Command:
    def run() -> None:
        from .encoder import probe

        found = {view: probe(base.tower, view, 100 * seed + PROBE_SEED) for view in VIEWS}
        write_atomic(folder / "probe.json", json.dumps(found, indent=1))

    return Command("probe", (), folder, call=run)
