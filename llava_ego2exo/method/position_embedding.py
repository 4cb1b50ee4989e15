"""Where a patch stands, in space and time: sines and cosines that are added to keys, without parameters."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn


def sincos(index: Tensor, width: int) -> Tensor:
    """Sine and cosine of `index` (n,) at frequencies falling from 1 to nearly 1/10000: (n, width), float32.

    An odd width drops the last cosine.
    """
    half = (width + 1) // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float32, device=index.device) / max(half, 1))
    angle = index.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]


def frame_embedding(frames: int, width: int, device: torch.device) -> Tensor:
    """Where in its video a frame stands: (frames, D), float32.

    Frames fill the first half of the channels and patch positions the second, so the two are orthogonal, and one
    linear map separates them whatever their indices.
    """
    half = (width + 1) // 2
    return nn.functional.pad(sincos(torch.arange(frames, device=device), half), (0, width - half))


def position_embedding(patches: int, width: int, device: torch.device) -> Tensor:
    """Where in its frame a patch stands: (patches, D), float32, in the second half of the channels.

    A square number of patches is a grid, row by row: half of these channels encode the row and half the column.
    Any other number is taken as a sequence.
    """
    index, side, first = torch.arange(patches, device=device), isqrt(patches), (width + 1) // 2
    room = width - first
    if side * side != patches:
        return nn.functional.pad(sincos(index, room), (first, 0))
    rows = sincos(index.div(side, rounding_mode="floor"), room // 2)
    columns = sincos(index % side, room - room // 2)
    return nn.functional.pad(torch.cat([rows, columns], dim=1), (first, 0))
