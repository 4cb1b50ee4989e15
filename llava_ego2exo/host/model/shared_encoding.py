"""Several questions about one clip share one run of the vision tower.

LLaVA encodes every entry of `images`, also where one tensor stands there several times. Inside `shared_encoding` the
tower runs on each tensor once, and its result is handed out to every entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ..hooks.install import substituted

_SHARED: ContextVar[Encoded | None] = ContextVar("ego2exo_shared_encoding", default=None)


@dataclass(frozen=True)
class Encoded:
    """Which of the rows that LLaVA wants from the tower are really encoded.

    Args:
        clip_of: entry of `images` -> its clip, numbered by first appearance.
        frames: number of frames of each clip.
    """

    clip_of: tuple[int, ...]
    frames: tuple[int, ...]

    @property
    def starts(self) -> list[int]:
        """Each clip's first row among the encoded ones, and their total at the end."""
        return [sum(self.frames[:clip]) for clip in range(len(self.frames) + 1)]

    def rows(self) -> tuple[list[int], list[int]]:
        """Rows of the whole input to encode, and for each row of the whole input its row among these."""
        starts, chosen, given, seen = self.starts, [], [], set()
        for clip in self.clip_of:
            if clip not in seen:
                chosen += range(len(given), len(given) + self.frames[clip])
                seen.add(clip)
            given += range(starts[clip], starts[clip + 1])
        return chosen, given


def encoded_ranges(items: Sequence[int], ranges: list[tuple[int, int]], total: int) -> EncodedRanges:
    """Where the tower's output holds some entries of `images`.

    Args:
        items: numbers of the entries.
        ranges: their (first, last + 1) frames among all frames of `images`.
        total: number of all frames of `images`.
    """
    shared = _SHARED.get()
    if shared is None:
        return EncodedRanges(ranges, total, None)
    starts = shared.starts
    clips = list(dict.fromkeys(shared.clip_of[item] for item in items))
    own = [(starts[clip], starts[clip + 1]) for clip in clips]
    return EncodedRanges(own, starts[-1], [clips.index(shared.clip_of[item]) for item in items])


@dataclass(frozen=True)
class EncodedRanges:
    """Frame ranges among the encoded ones, each once.

    Args:
        ranges: (first, last + 1).
        total: number of encoded frames.
        index: for each requested entry, its range; None: as they are.
    """

    ranges: list[tuple[int, int]]
    total: int
    index: list[int] | None

    def spread(self, made: Tensor) -> Tensor:
        """(ranges, ...) -> (entries, ...): each entry gets what was made of its range."""
        return made if self.index is None else made[self.index]


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
    order = {id(image): number for number, image in enumerate({id(i): i for i in images}.values())}
    frames = {id(image): image.shape[0] for image in images}
    shared = Encoded(tuple(order[id(image)] for image in images), tuple(frames[key] for key in order))
    chosen, given = shared.rows()
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
