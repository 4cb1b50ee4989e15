"""The demo's training runs: the commands a user would type, each in a process of its own, as many at once as cores."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError

FRAMES = 2
TEMPLATES = {"llama": "v1", "qwen": "qwen_1_5"}


@dataclass(frozen=True)
class Job:
    """One command and where its output goes.

    Args:
        name: for messages.
        command: as typed, beginning with "python" or "llava-ego2exo".
        folder: working folder; the log is `<name>.log` in it.
    """

    name: str
    command: Sequence[str]
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


def training_command(base: str, kind: str, tower: Path, data: str, out: str, flags: dict[str, Any]) -> list[str]:
    """LLaVA's training command for one student; paths are relative to the run's folder.

    A run without --ego2exo is LLaVA's own, which takes none of these settings from the base checkpoint: they are given.

    Args:
        base: the checkpoint to start from.
        kind: key of `TEMPLATES`.
        tower: folder of the vision tower.
        data: training JSON.
        out: where the student goes.
        flags: what differs between runs.
    """
    import torch

    from ..host.flavour import NEXT, detect

    pooling = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "average", "mm_newline_position": "no_token"}
    values = {
        "model_name_or_path": base, "version": TEMPLATES[kind], "data_path": data, "video_folder": "pairs",
        "output_dir": out, "vision_tower": tower, "vision_tower_dtype": "float32", "mm_vision_select_layer": -2,
        "mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "flat", "image_aspect_ratio": "square",
        "mm_use_im_patch_token": False,
        **(pooling if detect() == NEXT else {}),
        "frames_upbound": FRAMES, "model_max_length": 1024, "lora_enable": True, "lora_r": 16, "lora_alpha": 32,
        "lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "weight_decay": 0.0, "logging_steps": 10,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "gradient_checkpointing": False,
        **flags, **({} if torch.cuda.is_available() else {"use_cpu": True}),
    }  # fmt: skip
    parts = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    return ["python", "-m", "llava_ego2exo.train", *parts]


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
        jobs: in this order.
        say: prints one line.
        at_once: processes at the same time, one thread each; None takes the number of cores.
        every: seconds between two lines of progress.

    Raises:
        Ego2ExoError: a command failed; the others are ended, and the end of its output is in the message.
    """
    waiting, running, told = list(jobs), [], time.monotonic()
    at_once = at_once or len(os.sched_getaffinity(0))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append((waiting[0], _start(waiting.pop(0))))
            time.sleep(0.2)
            for job, process in [pair for pair in running if pair[1].poll() is not None]:
                running.remove((job, process))
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
