"""The demo's training run: the command a user would type, in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from ..errors import Ego2ExoError
from .material import Material

DTYPE, FRAMES = "float32", 4
TEMPLATES = {"llama": "v1", "qwen": "qwen_1_5"}


def train(out: Path, base: Path, kind: str, material: Material, epochs: int) -> Path:
    """Train a student and say what happened.

    Args:
        out: the run's working folder.
        base: checkpoint to start from, inside `out`.
        kind: key of `TEMPLATES`.
        material: what to train on.
        epochs: how often each sample is seen.

    Returns:
        The student's folder.

    Raises:
        Ego2ExoError: the run failed; the end of its output is printed before.
    """
    command = command_line(base.name, kind, material, epochs)
    log = out / "train.log"
    _say(f"\ncd {shlex.quote(str(out))}\n{shown(command)}\n\ntraining; its output goes to {log}")
    with log.open("w") as stream:
        environment = {**os.environ, "PYTHONPATH": absolute(os.environ.get("PYTHONPATH", ""))}
        argv = [sys.executable, *command[1:]]
        done = subprocess.run(argv, cwd=out, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(errors="replace")
    if done.returncode:
        lines = text.strip().splitlines()
        last = next((line for line in reversed(lines) if line.startswith("llava_ego2exo: error: ")), None)
        _say("" if last else "\n".join(lines[-30:]))
        raise Ego2ExoError(f"the training run ended with exit code {done.returncode}" + (f": {last}" if last else ""))
    _say(highlights(text))
    return out / "student"


def command_line(base: str, kind: str, material: Material, epochs: int) -> list[str]:
    """The training command; paths of the run itself are relative to its working folder.

    LLaVA's train script chooses by letters in the model's path, so nothing of the user's own path is in it.
    """
    import torch

    flags = {
        "ego2exo": True, "ego2exo_num_tokens": 4, "model_name_or_path": base, "version": TEMPLATES[kind],
        "data_path": material.data, "video_folder": material.folder, "output_dir": "student",
        "num_train_epochs": epochs, "per_device_train_batch_size": 4, "frames_upbound": FRAMES,
        "model_max_length": 1024, "lora_enable": True, "lora_r": 16, "lora_alpha": 32,
        "learning_rate": 5e-3, "mm_projector_lr": 5e-3, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "gradient_checkpointing": False,
        **({} if torch.cuda.is_available() else {"use_cpu": True}),
    }  # fmt: skip
    parts = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    return ["python", "-m", "llava_ego2exo.train", *parts]


def shown(command: list[str]) -> str:
    """A command line as it can be pasted into a shell, one flag a line."""
    return " ".join(f"\\\n    {part}" if part.startswith("--") else shlex.quote(part) for part in command)


def absolute(search_path: str) -> str:
    """PYTHONPATH for a process with another working folder."""
    return os.pathsep.join(os.path.abspath(part) for part in search_path.split(os.pathsep) if part)


def highlights(log: str) -> str:
    """Of a run's output: what the plugin says, the table of trainable parameters, first and last loss."""
    lines, kept = log.splitlines(), []
    groups = r"(trainable +tensors|(lora|mm_projector|ego_tokens) +\d+ )"
    for line in lines:
        if re.match(rf"ego2exo: inherited|{groups}", line):
            kept.append(line)
    losses = re.findall(r"'loss': '?([\d.e-]+)", log)
    if losses:
        kept.append(f"loss: {losses[0]} at the first of {len(losses)} steps, {losses[-1]} at the last")
    start = next((i for i, line in enumerate(lines) if line.startswith("ego2exo: saved to")), len(lines))
    return "\n".join([*kept, "", *lines[start : start + 6]])


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
