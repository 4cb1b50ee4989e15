"""Load tensors, never code: `torch.load` restricted to weights for the time of a block."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import Ego2ExoError
from .patchboard import substituted

_LOCK = threading.RLock()


@contextmanager
def only_weights() -> Iterator[None]:
    """Inside the block every `torch.load` of the process refuses pickled code, whichever library calls it.

    LLaVA and older peft call `torch.load` without `weights_only`, which executes a file's pickle on torch < 2.6.

    Raises:
        Ego2ExoError: a file holds something else than tensors and plain containers; nothing of it was run.
    """
    original = torch.load

    @functools.wraps(original)
    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["weights_only"] = True
        try:
            return original(file, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise Ego2ExoError(
                f"{file} is no plain weight file: {str(error).splitlines()[0]}",
                "tensors in plain containers (weights_only), or safetensors",
                "take the file from a source you trust and save it again as safetensors",
            ) from error

    with _LOCK, substituted(torch, load=load):
        yield
