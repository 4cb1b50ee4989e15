"""Weights that never run code: `torch.load` restricted to tensors, whole files, no code of a model's own."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from ...errors import Ego2ExoError
from ..hooks.install import substituted
from .config import read_config

# Classes beside tensors that a checkpoint may hold, by name: DeepSpeed's, in the optimizer shards of ZeRO.
ALLOWED_CLASSES = (
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
REMOTE_CODE_VARIABLE = "LLAVA_EGO2EXO_REMOTE_CODE"


class WeightsRefused(Ego2ExoError):
    """A weight file that is not loaded."""


@contextlib.contextmanager
def only_weights() -> Iterator[None]:
    """Inside the block every `torch.load` of the process refuses pickled code, whichever library calls it.

    LLaVA and older peft and transformers call `torch.load` without `weights_only`, which executes a file's pickle on
    torch < 2.6. Blocks may be nested, but not in threads that overlap.

    Raises:
        Ego2ExoError: a file holds something else than tensors and plain containers (nothing of it was run), or is
            damaged; also where a library has put an error of its own in its place.
    """
    with substituted(torch, load=_restricted(torch.load)):
        try:
            yield
        except Exception as error:
            refusal = _refusal_behind(error)
            if refusal is None or refusal is error:
                raise
            raise refusal from error


def _allowed() -> Any:
    """torch >= 2.5 can allow classes; before, DeepSpeed's shards stay refused."""
    found = []
    for path in ALLOWED_CLASSES if "deepspeed" in sys.modules else ():
        module, _, name = path.rpartition(".")
        with contextlib.suppress(ImportError, AttributeError):
            found.append(getattr(importlib.import_module(module), name))
    safe = getattr(torch.serialization, "safe_globals", None)
    found += [_enum_member] if found else []
    return safe(found) if safe and found else contextlib.nullcontext()


def _enum_member(of: Any, name: str) -> Enum:
    """Stands for `getattr`, by which Python 3.11.0 to 3.11.3 write the members of enumerations."""
    if not (isinstance(of, type) and issubclass(of, Enum)):
        raise TypeError(f"getattr of {of!r}")
    return of[name]


_enum_member.__module__, _enum_member.__qualname__ = "builtins", "getattr"


def _restricted(original: Any) -> Any:
    @functools.wraps(original)
    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["weights_only"] = True
        kwargs.pop("pickle_module", None)
        try:
            with _allowed():  # of each load: DeepSpeed may be imported after the block has begun
                return original(file, *args, **kwargs)
        except (MemoryError, torch.cuda.OutOfMemoryError, Ego2ExoError):
            raise
        except Exception as error:
            if getattr(error, "filename", None) is not None:
                raise  # it is missing or not readable, and its own message names it
            # A file that was cut off or changed makes the unpickler throw whatever its bytes ask for.
            name = file if isinstance(file, (str, os.PathLike)) else getattr(file, "name", "the file")
            reason = next(iter(str(error).strip().splitlines()), "no reason given")[:200]
            raise WeightsRefused(
                f"{name} is not a weight file or is damaged: {type(error).__name__}: {reason}",
                "tensors in plain containers (weights_only), or safetensors",
                "copy or save the file again, as safetensors, from a source you trust",
            ) from error

    return load


def _refusal_behind(error: BaseException | None) -> WeightsRefused | None:
    """transformers answers any error of `torch.load` with one of its own, which gives no reason."""
    while error is not None and not isinstance(error, WeightsRefused):
        error = error.__cause__ or error.__context__
    return error


def require_whole_weights(folder: str | Path | None) -> None:
    """Check the header and length of each `.safetensors` file in a folder; safetensors' own error does not name it."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(folder).glob("*.safetensors")) if folder is not None else ():
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise Ego2ExoError(
                f"{file} is damaged: {error}", "a whole safetensors file", "copy or download it again"
            ) from error


def check_tower_code(tower: Any) -> None:
    """Refuse a `hf:` tower (`--vision_tower`, or `mm_vision_tower` of a config) that brings code: LLaVA runs it."""
    if isinstance(tower, str) and tower.startswith("hf:"):
        _refuse_code(tower.removeprefix("hf:"), f"the vision tower {tower}")


def _refuse_code(path: str, given: str) -> None:
    try:
        config = read_config(path)
    except Ego2ExoError:
        return  # whoever reads the missing config reports it
    if config.get("auto_map") and os.environ.get(REMOTE_CODE_VARIABLE) != "1":
        raise Ego2ExoError(
            f"{given} brings Python code of its own (auto_map in its config.json)",
            "models whose classes transformers and llava know",
            f"read that code first, and set {REMOTE_CODE_VARIABLE}=1 if you trust it",
        )
