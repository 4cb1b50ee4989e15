"""Fixes of how LLaVA-NeXT builds vision towers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from ..checkpoint.config import read_config
from ..checkpoint.files import weight_names
from ..hooks.install import substituted


def local_siglip(original: Callable[..., Any]) -> Callable[..., Any]:
    """LLaVA-NeXT reads every local folder as CLIP; a SigLIP folder is recognised by its config."""

    @functools.wraps(original)
    def build_vision_tower(vision_tower_cfg: Any, **kwargs: Any) -> Any:
        name = getattr(vision_tower_cfg, "mm_vision_tower", getattr(vision_tower_cfg, "vision_tower", None))
        if isinstance(name, str) and os.path.isdir(name) and _kind(name).startswith("siglip"):
            from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower

            return SigLipVisionTower(name, vision_tower_cfg=vision_tower_cfg, **kwargs)
        return original(vision_tower_cfg, **kwargs)

    return build_vision_tower


def _kind(folder: str) -> str:
    try:
        return str(read_config(folder).get("model_type", ""))
    except ValueError:
        return ""  # no config: LLaVA's own message names what is missing


def hf_tower(original: Callable[..., Any]) -> Callable[..., Any]:
    """LLaVA-NeXT's `hf:` tower moves itself to CUDA whether there is one or not, and its loader passes a device_map."""

    @functools.wraps(original)
    def load_model(self: Any, device_map: Any = None) -> Any:
        if torch.cuda.is_available():
            return original(self)
        moved = torch.nn.Module.to

        def to(module: Any, *args: Any, **kwargs: Any) -> Any:
            return module if args == ("cuda",) else moved(module, *args, **kwargs)

        with substituted(torch.nn.Module, to=to):
            return original(self)

    return load_model


def prepare_tower(config: Any, path: str, extra: frozenset[str] = frozenset()) -> Any:
    """Make LLaVA build the tower at the right moment, in place on its config.

    With low_cpu_mem_usage LLaVA-NeXT's constructor loads the tower's weights into the meta device, where they are
    lost, and nothing fills them later: the tower is garbage. A tower whose weights lie in the checkpoint must be
    there when it is read; any other must be built afterwards. `extra` names weights that are loaded on top of `path`.
    """
    names = weight_names(path) | extra
    stored = any("vision_tower." in name for name in names)
    config.delay_load = True
    config.unfreeze_mm_vision_tower = stored
    if not stored and "mm_vision_tower" in (getattr(config, "mm_tunable_parts", None) or ""):
        config.mm_tunable_parts = None
    return config
