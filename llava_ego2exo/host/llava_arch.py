"""Small views of `llava.model.llava_arch` that several seams need."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def module() -> Any:
    """The host module, imported."""
    import llava.model.llava_arch as host

    return host


def original_projector_builder() -> Callable[..., Any]:
    """LLaVA's own `build_vision_projector`, without our wrapper."""
    return inspect.unwrap(module().build_vision_projector)
