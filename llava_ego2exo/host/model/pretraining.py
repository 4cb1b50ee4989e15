"""A LLaVA model from its parts, and its training on features that the frozen tower gave once.

So the demo's base takes a minute, not an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.config import llava_class
from ..hooks.install import substituted
from .answer_tokens import IGNORE_INDEX


def assemble(key: str, folder: Path, language: dict[str, Any], tower: Path, seed: int = 0, **settings: Any) -> Path:
    """Write a LLaVA model with random weights to `folder`.

    `key` is its model type, as "llava_qwen"; `language` has the language model's sizes; `settings` are further keys of
    LLaVA's config (mm_projector_type, mm_spatial_pool_stride, ...).
    """
    from llava.model import llava_arch

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
        config.mm_hidden_size = llava_arch.build_vision_tower(config, delay_load=True).hidden_size
        config.delay_load = True
        model = cls(config)
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def tower_features(model: Any, frames: Tensor, batch: int = 256) -> Tensor:
    """What the tower hands to the projector: (N, 3, H, W) preprocessed to (N, patches, D)."""
    return torch.cat([model.get_vision_tower()(part) for part in frames.split(batch)])


def training_rows(
    tokenizer: Any, conversations: Sequence[list[dict[str, str]]], template: str
) -> list[dict[str, Tensor]]:
    """Ids and labels of conversations (as in LLaVA's training JSON), by LLaVA's own preprocessing."""
    from llava import conversation
    from llava.train.train import preprocess

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token  # as LLaVA's train script does
    with substituted(conversation, default_conversation=conversation.conv_templates[template]):
        made = [preprocess([turns], tokenizer, has_image=True) for turns in conversations]
    return [{"ids": row["input_ids"][0], "labels": row["labels"][0].long()} for row in made]


def loss(model: Any, rows: Sequence[dict[str, Tensor]], features: Sequence[Tensor]) -> Tensor:
    """LLaVA's own loss of a batch, the tower stepped over.

    `rows` are of :func:`training_rows`, each with one placeholder; `features`, (T, patches, D), of each row's video.
    """
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([row["ids"] for row in rows], batch_first=True)
    labels = pad([row["labels"] for row in rows], batch_first=True, padding_value=IGNORE_INDEX)
    mask = pad([torch.ones_like(row["ids"], dtype=torch.bool) for row in rows], batch_first=True)
    # LLaVA joins the videos' frames, four-dimensional as pictures are, and asks its tower: here they are features.
    videos = [video[..., None] for video in features]
    with substituted(model.get_vision_tower(), forward=lambda frames: frames[..., 0]):
        out = model(
            input_ids=ids, attention_mask=mask, labels=labels, images=videos, modalities=["video"] * len(videos),
            use_cache=False,
        )  # fmt: skip
    return out.loss
