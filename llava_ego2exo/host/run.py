"""`llava.train.train.train`: checks before it, inherited flags on its command line, the loader call after it."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..common.processes import is_first
from ..config import PREFIX
from ..errors import Ego2ExoError
from .checkpoint.files import describe
from .checkpoint.safety import only_weights
from .hooks.install import substituted
from .loader import loader_call
from .preflight.checks import CheckedRun, check_frame_cache, check_run
from .preflight.teacher import refuse_without_tokens
from .preflight.tower import check_pooling
from .resume.checkpoints import full_disk, quarantine
from .settings import DISTILL, RUN, SEED, Run, Settings, apply_preset, inherit, read
from .training.verification import verify_saved


def wrap_train(original: Callable[..., None]) -> Callable[..., None]:
    """LLaVA's `train()`; a run without ego tokens passes through."""

    @functools.wraps(original)
    def train(*args: Any, **kwargs: Any) -> None:
        from transformers import set_seed

        host = sys.modules[original.__module__]
        classes = (host.ModelArguments, host.DataArguments, host.TrainingArguments)
        settings = read(classes, sys.argv[1:])
        if not settings.on:
            refuse_without_tokens(settings)
            check_pooling(settings)
            check_frame_cache(settings)
            return original(*args, **kwargs)
        settings, preset = apply_preset(settings)
        settings, inherited = inherit(settings)
        if "ego2exo" not in settings.given:
            inherited["ego2exo"] = True
        if preset:
            _print(f"set by --{PREFIX}preset {settings[f'{PREFIX}preset']}: {_listed(preset)}")
        _print(f"inherited from {settings['model_name_or_path']}: {_listed(inherited)}")
        checked = check_run(settings)  # whose messages may name what no one has typed
        if _needs_plain_ddp(settings):
            inherited["ddp_find_unused_parameters"] = False
            if "LOCAL_RANK" in os.environ:
                _print("set --ddp_find_unused_parameters False (LoRA, gradient checkpointing, torchrun)")
        run, seed = Run(checked.signature, settings.base.get("ego2exo_pool")), int(settings["seed"])
        _prepare_folder(settings, checked)
        set_seed(seed)  # LoRA draws its weights before LLaVA's trainer does this
        added = {**preset, **inherited}
        argv = [*sys.argv, *(part for flag, value in added.items() for part in (f"--{flag}", str(value)))]
        with contextlib.ExitStack() as stack:
            for variable, value in ((SEED, seed), (DISTILL, checked.distilling), (RUN, run)):
                stack.callback(variable.reset, variable.set(value))
            stack.enter_context(substituted(sys, argv=argv))
            _train(original, args, kwargs, settings)
            verify_saved(settings, run)
        _print(_loader_call(settings))
        return None

    return train


def _listed(flags: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(flags.items())) or "nothing"


def _train(original: Callable[..., None], args: Any, kwargs: Any, settings: Settings) -> None:
    # PEFT asks the hub for a base's config at each save, to see whether embeddings were resized; they are kept here.
    warnings.filterwarnings("ignore", "Could not find a config file in ")
    try:
        with only_weights():
            original(*args, **kwargs)
    except Ego2ExoError:
        raise
    except Exception as error:
        refusal = full_disk(f"a file of --output_dir {settings['output_dir']}", error, settings["output_dir"])
        if refusal is None:
            raise
        raise refusal from error


def _prepare_folder(settings: Settings, checked: CheckedRun) -> None:
    """Hide unfinished and damaged checkpoints from LLaVA; report which one is resumed."""
    if is_first():
        for line in quarantine(settings["output_dir"], checked.scan):
            _print(line)
    if checked.scan.last is not None:
        _print(f"resuming {checked.scan.last}")
    if checked.changed:
        _print(f"resuming with changed flags (checkpoint / now): {'; '.join(checked.changed)}")


def _needs_plain_ddp(settings: Settings) -> bool:
    """Whether the run would fail under torchrun, with one process too, with "mark a variable ready only once".

    transformers lets DDP search for unused parameters in every PEFT model, which reentrant checkpointing forbids. There
    is nothing to find: a batch without a video still ties the ego tokens to its loss. A tuned vision tower has layers
    after the chosen one, so there the choice stays the user's.
    """
    tower = "mm_vision_tower" in (settings["mm_tunable_parts"] or "")
    asked = "ddp_find_unused_parameters" in settings.given or settings["gradient_checkpointing_kwargs"]
    return bool(settings["lora_enable"] and settings["gradient_checkpointing"] and not asked and not tower)


def run_train() -> None:
    """LLaVA's `train()` on this process's command line, with whatever is registered."""
    from llava.train.train import train

    train()


def _print(text: str) -> None:
    if is_first():
        print(f"ego2exo: {text}", flush=True)  # noqa: T201


def _loader_call(settings: Settings) -> str:
    """How to load, or first merge, what a run saved."""
    folder = str(Path(settings["output_dir"]))
    base = None if describe(folder).kind == "full" else str(settings["model_name_or_path"])
    dtype = "bfloat16" if settings["bf16"] else "float16" if settings["fp16"] else "float32"
    text = f"saved to {folder}; load it with:\n{loader_call(folder, base, dtype, settings['bits'])}"
    if base is None:
        return text
    merge = ["llava-ego2exo", "merge", folder, "--base", base, "--out", f"{folder}-merged"]
    return f"{text}\nor merge it first: {shlex.join(merge)}"
