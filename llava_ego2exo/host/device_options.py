"""What LLaVA's loader has to be told so that a model lands on the device that a run trains on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def device_options(loader: Callable[..., Any], device: torch.device) -> dict[str, Any]:
    """Arguments of the loader; llava-torch takes the device by a name of its own.

    Args:
        loader: `load_pretrained_model`.
        device: where to.
    """
    named = "device" in inspect.signature(loader).parameters
    if device.type != "cpu":
        index = device.index or 0
        return {"device": f"cuda:{index}"} if named else {"device_map": {"": index}}
    return {"device": "cpu"} if named else {"device_map": "cpu"} if torch.cuda.is_available() else {}
