"""Small views of `llava.model.llava_arch` that several seams need."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import Ego2ExoError


def module() -> Any:
    """The host module, imported."""
    import llava.model.llava_arch as host

    return host


def original_projector_builder() -> Callable[..., Any]:
    """LLaVA's own `build_vision_projector`, without our wrapper."""
    return inspect.unwrap(module().build_vision_projector)


def require_llava_model(model: Any) -> Any:
    """The LLaVA model inside `model` (which may be PEFT-wrapped).

    Raises:
        Ego2ExoError: it is no LLaVA model.
    """
    inner = getattr(getattr(model, "base_model", None), "model", model)
    if not hasattr(inner, "get_vision_tower") and not hasattr(model, "get_vision_tower"):
        raise Ego2ExoError(f"{type(model).__name__} is no LLaVA model")
    return inner if hasattr(inner, "get_vision_tower") else model
