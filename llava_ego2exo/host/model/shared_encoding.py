"""Several questions about one clip share one run of the vision tower.

LLaVA encodes every entry of `images`, also where one tensor stands there several times. Inside `shared_encoding` the
tower runs on each tensor once, and its result is handed out to every entry. Inside `remembered_encoding` calls of the
model one after the other share it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ..hooks.install import substituted

_SHARED: ContextVar[SharedClips | None] = ContextVar("ego2exo_shared_encoding", default=None)


@dataclass(frozen=True)
class SharedClips:
    """The clips that the tower encodes once each."""

    clip_of: list[int]  # of each entry of `images`, numbered by first appearance
    starts: list[int]  # each clip's first row among the encoded ones, and their total at the end

    def range(self, clip: int) -> tuple[int, int]:
        return self.starts[clip], self.starts[clip + 1]


def encoded_ranges(
    items: Sequence[int], ranges: list[tuple[int, int]], total: int
) -> tuple[list[tuple[int, int]], int, list[int] | None]:
    """Where the tower's output holds some entries of `images`, with these (first, last + 1) of all its `total` frames.

    Returns:
        (first, last + 1) frames among the encoded ones, each range once; the number of encoded frames; and for each
        entry its range's index, None where each entry has its own.
    """
    shared = _SHARED.get()
    if shared is None:
        return ranges, total, None
    clips = list(dict.fromkeys(shared.clip_of[item] for item in items))
    return [shared.range(clip) for clip in clips], shared.starts[-1], [clips.index(shared.clip_of[i]) for i in items]


@contextmanager
def shared_encoding(model: Any, images: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block `model`, called with these `images`, runs its tower once for each different tensor.

    Args:
        model: a LLaVA model.
        images: (frames, 3, H, W) each; the same tensor object for each question about a clip. Give this list itself to
            the model, or one of the same tensors.

    Raises:
        Ego2ExoError: inside the block, a call with other images.
    """
    clips = {id(image): image for image in images}
    order = {key: number for number, key in enumerate(clips)}
    starts = [0, *accumulate(clip.shape[0] for clip in clips.values())]
    shared = SharedClips([order[id(image)] for image in images], starts)
    # Each row's row among the encoded ones, and of each encoded row its first appearance.
    given = [row for clip in shared.clip_of for row in range(*shared.range(clip))]
    chosen = [given.index(row) for row in range(starts[-1])]
    tower = model.get_vision_tower()
    original = tower.forward

    def forward(pictures: Tensor) -> Tensor:
        if not isinstance(pictures, Tensor) or pictures.shape[0] != len(given):
            count = pictures.shape[0] if isinstance(pictures, Tensor) else "several lists of"
            raise Ego2ExoError(f"{count} pictures where the clips to share hold {len(given)}", "the same images")
        features = original(pictures[torch.tensor(chosen, device=pictures.device)])
        return features[torch.tensor(given, device=features.device)]

    token = _SHARED.set(shared)
    try:
        with substituted(tower, forward=forward):
            yield
    finally:
        _SHARED.reset(token)


@contextmanager
def remembered_encoding(model: Any, first: bool = False) -> Iterator[None]:
    """Inside the block the encoder's run on the same pictures as the run before gives that run's output again.

    With `first`, the block's first run is the one that is remembered, whatever is encoded in between.
    """
    encoder = model.get_vision_tower().vision_tower
    original, last = encoder.forward, []

    def forward(pictures: Tensor, *args: Any, **kwargs: Any) -> Any:
        if last and torch.equal(last[0], pictures) and last[1] == (args, kwargs):
            return last[2]
        output = original(pictures, *args, **kwargs)
        if not (last and first):
            last[:] = pictures, (args, kwargs), output
        return output

    with substituted(encoder, forward=forward):
        yield
