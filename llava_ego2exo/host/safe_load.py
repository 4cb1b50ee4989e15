"""Load tensors, never code: `torch.load` restricted to weights for the time of a block."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import Ego2ExoError
from .patchboard import substituted

_LOCK = threading.Lock()
_open_blocks = 0
_restore = contextlib.ExitStack()


@contextmanager
def only_weights() -> Iterator[None]:
    """Inside the block every `torch.load` of the process refuses pickled code, whichever library calls it.

    LLaVA and older peft and transformers call `torch.load` without `weights_only`, which executes a file's pickle on
    torch < 2.6. Blocks may lie in each other, and in several threads at once: the last to end puts `torch.load` back.

    Raises:
        Ego2ExoError: a file holds something else than tensors and plain containers (nothing of it was run), or is
            damaged; also where a library has put an error of its own in its place.
    """
    _enter()
    try:
        yield
    except Exception as error:
        refusal = _refusal_behind(error)
        if refusal is None or refusal is error:
            raise
        raise refusal from error
    finally:
        _leave()


def _enter() -> None:
    global _open_blocks
    with _LOCK:
        if _open_blocks == 0:
            _restore.enter_context(substituted(torch, load=_restricted(torch.load)))
        _open_blocks += 1


def _leave() -> None:
    global _open_blocks
    with _LOCK:
        _open_blocks -= 1
        if _open_blocks == 0:
            _restore.close()


def _restricted(original: Any) -> Any:
    @functools.wraps(original)
    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["weights_only"] = True
        kwargs.pop("pickle_module", None)
        try:
            return original(file, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise WeightsRefused(
                f"{_name(file)} is no plain weight file: {_reason(error)}",
                "tensors in plain containers (weights_only), or safetensors",
                "take the file from a source you trust and save it again as safetensors",
            ) from error
        except (MemoryError, torch.cuda.OutOfMemoryError, Ego2ExoError):
            raise
        except Exception as error:
            if getattr(error, "filename", None) is not None:
                raise  # it is not there, or may not be read, and says so itself
            # A file that was cut off or changed makes the unpickler throw whatever its bytes ask for.
            raise WeightsRefused(
                f"{_name(file)} cannot be read as weights: {type(error).__name__}: {_reason(error)}",
                "a whole file of tensors",
                "it may have been cut off while it was written or copied: get or make it anew",
            ) from error

    return load


class WeightsRefused(Ego2ExoError):
    """A weight file that is not loaded."""


def _refusal_behind(error: BaseException) -> WeightsRefused | None:
    """transformers answers any error of `torch.load` with one of its own, which names no reason."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        if isinstance(one, WeightsRefused):
            return one
        seen.add(id(one))
        one = one.__cause__ or one.__context__
    return None


def _name(file: Any) -> str:
    return str(file) if isinstance(file, (str, os.PathLike)) else str(getattr(file, "name", "the file"))


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason given"
