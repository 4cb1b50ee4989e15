"""Where a model's vision tower gets its weights from when transformers builds the model without memory."""

from __future__ import annotations

from typing import Any

from .checkpoints import weight_names


def prepare_tower(config: Any, path: str, extra: frozenset[str] = frozenset()) -> Any:
    """Make LLaVA build the tower at the right moment, in place on its config.

    With low_cpu_mem_usage LLaVA-NeXT's constructor loads the tower's weights into the meta device, where they are
    lost, and nothing fills them later: the tower is garbage. A tower whose weights lie in the checkpoint must be
    there when it is read; any other must be built afterwards.

    Args:
        config: a LLaVA config.
        path: the checkpoint that will be read.
        extra: names of weights that are loaded on top of it.
    """
    names = weight_names(path) | extra
    stored = any("vision_tower." in name for name in names)
    config.delay_load = True
    config.unfreeze_mm_vision_tower = stored
    if not stored and "mm_vision_tower" in (getattr(config, "mm_tunable_parts", None) or ""):
        config.mm_tunable_parts = None
    return config
