"""Put a language model, a vision tower and a fresh projector together as a LLaVA checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .classes import llava_class
from .llava_arch import module as arch


def assemble(key: str, folder: Path, language: dict[str, Any], tower: Path, seed: int = 0, **settings: Any) -> Path:
    """Write a LLaVA model with random weights to `folder`.

    Args:
        key: model type, as "llava_qwen".
        folder: where to.
        language: arguments of the language model's config (sizes, vocabulary).
        tower: folder or hub name of the vision tower.
        seed: for the random weights.
        settings: further keys of LLaVA's config (mm_projector_type, mm_spatial_pool_stride, ...).

    Returns:
        `folder`.
    """
    cls = llava_class(key)
    multimodal = {
        "mm_vision_tower": str(tower),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_resampler_type": None,
        "image_aspect_ratio": "square",
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
        **settings,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = cls.config_class(**language, **multimodal)
        config.mm_hidden_size = tower_width(config)
        config.delay_load = True
        model = cls(config)
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(folder)
    return folder


def tower_width(config: Any) -> int:
    """Width that the configured tower gives to the projector; loads no weights."""
    return arch().build_vision_tower(config, delay_load=True).hidden_size
