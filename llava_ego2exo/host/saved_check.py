"""The end of a run: what was saved is loaded by LLaVA's loader and must answer as the model in memory did."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch

from ..config import PREFIX
from ..errors import Ego2ExoError
from ..runs.ranks import is_first
from .answer_pass import llava_model
from .checkpoints import describe
from .command_line import Settings
from .context import Run
from .device_options import device_options
from .first_reply import Reply, asked_in_memory, first_sample, reply, tokenizer_of

FLAG = f"--{PREFIX}check_saved"
CHOICES = ("auto", "True", "False")
# How much more than its weights a model needs while it is loaded and asked.
_ROOM = 1.5
# Mean difference of logits, and lead of one token over another, in units of the logits' spread: up to these, two
# models count as the same. Merging LoRA rounds the sum once more; in half precision that is seen.
_SAME = {"full": (0.01, 0.001), "half": (0.25, 0.1)}


def require_choice(value: Any) -> str:
    """The flag's value.

    Raises:
        Ego2ExoError: no such choice.
    """
    found = next((choice for choice in CHOICES if choice.lower() == str(value).lower()), None)
    if found is None:
        raise Ego2ExoError(f"{FLAG} {value}", ", ".join(CHOICES), "leave it out for auto")
    return found


def check_saved(settings: Settings, run: Run) -> None:
    """Compare; the model in memory is asked first and let go, so that there is room for the other.

    Args:
        settings: the run's.
        run: with its trainer, whose last reference may be this one.

    Raises:
        Ego2ExoError: the files do not load, or are not the model that was trained.
    """
    choice, trainer = require_choice(settings[f"{PREFIX}check_saved"]), run.trainer
    if not is_first():
        return
    why_not = _why_not(choice, trainer)
    if why_not:
        _say(f"what was saved is not compared with the model in memory: {why_not}")
        return
    device, half = trainer.args.device, trainer.args.bf16 or trainer.args.fp16 or settings["bits"] in (4, 8)
    batch, name = first_sample(trainer)
    mine = asked_in_memory(trainer, batch)
    tower = llava_model(trainer.model).get_vision_tower().dtype
    size = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    tokenizer = tokenizer_of(trainer)
    run.trainer = trainer = None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    free = _free(device)
    if choice == "auto" and free is not None and free < _ROOM * size:
        _say(
            f"what was saved is not compared with the model in memory: loading it takes {_ROOM * size / 1e9:.1f} GB on "
            f"{device.type}, and {free / 1e9:.1f} GB are free ({FLAG} True tries all the same)"
        )
        return
    theirs = reply(_load(settings, device, tower), tokenizer, batch)
    _say(_compared(mine, theirs, name, "half" if half else "full", settings))


def _say(text: str) -> None:
    print(f"ego2exo: {text}", flush=True)  # noqa: T201


def _why_not(choice: str, trainer: Any) -> str | None:
    if choice == "False":
        return f"{FLAG} False"
    if trainer is None:
        return "another trainer than ego2exo has trained it"
    if trainer.sharded:
        return "no process holds all of its weights"
    return None


def _free(device: torch.device) -> float | None:
    """Bytes free on a device; None where the machine does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _load(settings: Settings, device: torch.device, tower: torch.dtype) -> Any:
    from llava.model.builder import load_pretrained_model

    folder = str(settings["output_dir"])
    base = None if describe(folder).kind == "full" else settings["model_name_or_path"]
    dtype = "bfloat16" if settings["bf16"] else "float16" if settings["fp16"] else "float32"
    options = {f"load_{settings['bits']}bit": True} if settings["bits"] in (4, 8) else {}
    options |= device_options(load_pretrained_model, device)
    try:
        model = load_pretrained_model(folder, base, "llava_ego2exo", torch_dtype=dtype, **options)[1]
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Ego2ExoError(
            f"what was saved to {folder} does not load ({reason})",
            "a student that LLaVA's loader loads",
            "use the last whole checkpoint-N, and report this with the training command",
        ) from error
    model.get_vision_tower().to(tower)
    return model.eval()


def _compared(mine: Reply, theirs: Reply, name: str, precision: str, settings: Settings) -> str:
    """What to tell of two models that are the same.

    Raises:
        Ego2ExoError: they are not.
    """
    width = min(mine.logits.shape[1], theirs.logits.shape[1])  # the loader cuts rows that no token has
    first, other_first = mine.logits[0, :width], theirs.logits[0, :width]
    possible = torch.isfinite(first) & torch.isfinite(other_first)  # generation settings may forbid some tokens
    apart = float((first - other_first)[possible].abs().mean()) / (float(first[possible].std()) or 1.0)
    most, tie = _SAME[precision]
    length = min(len(mine.tokens), len(theirs.tokens))
    differing = (mine.tokens[:length] != theirs.tokens[:length]).nonzero()[:, 0]
    place = int(differing[0]) if len(differing) else None
    lead = 0.0
    if place is not None:
        row, other = mine.logits[place, :width], int(theirs.tokens[place])
        lead = float(row.max() - row[other]) / (float(row[torch.isfinite(row)].std()) or 1.0)
    if not apart <= most or not lead <= tie:
        raise Ego2ExoError(
            f"the student was written to {settings['output_dir']}, but its files do not give the model that was "
            f"trained: about sample {name} they say {theirs.text!r}, the model in memory {mine.text!r} (logits "
            f"{apart:.2g} of their spread apart)",
            f"the same answer (up to {most:g}); {FLAG} False compares nothing",
            "do not use these files; take the last whole checkpoint-N, and report this with the training command",
        )
    tied = "" if place is None else f" up to a tie at token {place + 1}"
    return (
        f"the saved student, loaded anew, answers sample {name} as the one in memory did{tied} "
        f"({len(mine.tokens)} tokens, logits {apart:.1g} of their spread apart)"
    )
