"""Where a loaded student's ego tokens look in one video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Ego2ExoError
from ..method.looking import attention_maps
from .projector import ego_branch
from .vision import capture


@dataclass(frozen=True)
class Looks:
    """Attention of one video's ego tokens.

    Attributes:
        layers: zero-based numbers of the encoder layers that the tokens read, ascending.
        maps: (layers, P, frames, side, side), float32 on the CPU, averaged over heads; with heads kept apart
            (layers, H, P, frames, side, side). A token's map of a layer sums to 1 over frames, rows and columns.
    """

    layers: tuple[int, ...]
    maps: Tensor


@torch.no_grad()
def look(model: Any, frames: Tensor, per_head: bool = False) -> Looks:
    """Run the vision tower and the ego tokens on one video, and keep where they look.

    Args:
        model: a LLaVA model with ego tokens.
        frames: (T, 3, H, W), preprocessed.
        per_head: keep heads apart instead of averaging over them.

    Raises:
        Ego2ExoError: the model has no ego tokens or no tower, or `frames` is not one video.
    """
    branch, tower = ego_branch(getattr(model.get_model(), "mm_projector", None)), model.get_vision_tower()
    if branch is None or tower is None:
        lacks = "ego tokens" if branch is None else "a vision tower"
        raise Ego2ExoError(f"{type(model).__name__} without {lacks}", "a student trained with --ego2exo True")
    if frames.ndim != 4 or frames.shape[0] < 1:
        raise Ego2ExoError(f"frames of shape {tuple(frames.shape)}", "(T, 3, H, W), one video", "look at one at a time")
    count, side = frames.shape[0], tower.num_patches_per_side
    with capture(tower, branch.reader.layers) as captured:
        tower(frames.to(tower.device, tower.dtype))
        (maps,) = attention_maps(branch.reader, captured.frames([(0, count)], count), [count], per_head)
    return Looks(branch.reader.layers, maps.unflatten(-1, (side, side)).cpu())
