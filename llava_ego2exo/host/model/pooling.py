"""`--ego2exo_pool RxC`: a video's ordinary visual tokens, average-pooled frame by frame; with ego tokens or without."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...config import Ego2ExoConfig
from ...errors import Ego2ExoError
from ..hooks.install import substituted


def pool_frames(features: Tensor, size: tuple[int, int]) -> Tensor:
    """(frames, side * side, width) to (frames, rows * columns, width), by adaptive average pooling.

    Raises:
        Ego2ExoError: `features` are no square of patches, or have fewer rows than `size`.
    """
    patches = features.shape[1]
    side = math.isqrt(patches)
    if side**2 != patches or max(size) > side:
        raise Ego2ExoError(
            f"--ego2exo_pool {size[0]}x{size[1]} with {patches} visual tokens a frame",
            "patches alone (no class token), and not more rows or columns than patches a side",
            "give a smaller grid, or --mm_vision_select_feature patch",
        )
    grid = features.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, size).flatten(2).transpose(1, 2)


def pooled_videos(model: Any, kinds: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Inside the block LLaVA pools as the model's config says; unset, it does what it always does.

    LLaVA-NeXT pools videos, and nothing else, by one method. llava-torch has no pooling: there a call's videos are
    pooled where it splits what it has encoded.

    Args:
        model: a LLaVA model.
        kinds: of each entry of `images`.
    """
    size = Ego2ExoConfig.from_object(model.config).pool_size
    if size is None:
        return contextlib.nullcontext()
    if hasattr(model, "get_2dPool"):
        return substituted(model, get_2dPool=lambda features, *_args, **_kwargs: pool_frames(features, size))
    if "video" not in kinds:
        return contextlib.nullcontext()
    encode = model.encode_images
    return substituted(model, encode_images=lambda images: _Encoded(encode(images), kinds, size))


@dataclass(frozen=True)
class _Encoded:
    """What llava-torch hands to `torch.split`, which calls this `split`."""

    features: Tensor
    kinds: Sequence[str]
    size: tuple[int, int]

    def split(self, sizes: list[int], dim: int = 0) -> list[Tensor]:
        parts = zip(self.features.split(sizes, dim), self.kinds, strict=True)
        return [pool_frames(part, self.size) if kind == "video" else part for part, kind in parts]
