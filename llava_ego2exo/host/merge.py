"""`llava-ego2exo merge`: an adapter and its base as one self-contained LLaVA directory."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..common.files import require_writable
from ..errors import Ego2ExoError
from .checkpoint.config import read_config, torch_dtype
from .checkpoint.files import describe, extra_weights, weight_names
from .loader import check_base


def merge(adapter: str, base: str, out: str, dtype: str | None = None) -> Path:
    """Merge a LoRA or projector checkpoint into its base and write a directory that loads without a base.

    The sum is formed in float32 and rounded once; the directory appears whole or not at all.

    Args:
        adapter: folder that training wrote, or one of its `checkpoint-*`.
        base: the checkpoint that training started from.
        out: new folder.
        dtype: of the written weights; None keeps the one that was trained with.

    Returns:
        `out`.

    Raises:
        Ego2ExoError: `out` is not empty, or adapter and base do not fit.
    """
    from .. import register

    target = Path(os.path.abspath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Ego2ExoError(f"--out {out} exists and is not empty", "a new or empty folder", "choose another")
    require_writable(target.parent, "--out", folder=True)
    register()
    if describe(adapter).kind == "full" and weight_names(adapter):
        given = f"{adapter} holds a whole model: there is nothing to merge"
        raise Ego2ExoError(given, "a LoRA or projector folder and its base", "load it as it is, or check the order")
    check_base(describe(adapter), base, read_config(adapter), "--base")
    _write_merged(adapter, base, target, dtype)
    return target


def _write_merged(adapter: str, base: str, out: Path, dtype: str | None) -> None:
    """Load by LLaVA's loader in float32, round to `dtype`, save beside `out` and move there."""
    from llava.model.builder import load_pretrained_model

    trained = dtype or read_config(adapter).get("torch_dtype") or "bfloat16"
    options = {"device_map": "cpu", **device_options(load_pretrained_model, torch.device("cpu"))}
    tokenizer, model, _, _ = load_pretrained_model(adapter, base, "llava_merge_lora", torch_dtype="float32", **options)
    model.to(torch_dtype(trained))
    unfinished = out.with_name(out.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    _restore_config(model.config, read_config(base))
    try:
        model.save_pretrained(unfinished, state_dict=_weights(model, adapter, base), safe_serialization=True)
        tokenizer.save_pretrained(unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if not out.exists():
        unfinished.rename(out)
        return
    # A folder that exists may be the current one: it is filled, and counts as a checkpoint with its last file.
    for file in sorted(unfinished.iterdir(), key=lambda file: file.name == "config.json"):
        file.rename(out / file.name)
    unfinished.rmdir()


def _weights(model: Any, adapter: str, base: str) -> dict[str, torch.Tensor]:
    """The model's weights; the tower's only where base or adapter hold them (a frozen one comes by its name)."""
    names = weight_names(base) | extra_weights(describe(adapter)).keys()
    tower = any("vision_tower." in name for name in names)
    return {name: value for name, value in model.state_dict().items() if tower or "vision_tower." not in name}


def _restore_config(config: Any, base: dict[str, Any]) -> None:
    """Undo what only served training or loading, so that the directory reads as any LLaVA checkpoint."""
    config.use_cache = True
    for key in ("delay_load", "unfreeze_mm_vision_tower"):
        if key in base:
            setattr(config, key, base[key])
    config._name_or_path = ""


def device_options(loader: Callable[..., Any], device: torch.device) -> dict[str, Any]:
    """Arguments of `load_pretrained_model` that put a model on `device`; llava-torch has another name for it."""
    named = "device" in inspect.signature(loader).parameters
    if device.type != "cpu":
        index = device.index or 0
        return {"device": f"cuda:{index}"} if named else {"device_map": {"": index}}
    return {"device": "cpu"} if named else {"device_map": "cpu"} if torch.cuda.is_available() else {}
