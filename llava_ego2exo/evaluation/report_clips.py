"""A few small frames of each clip that a report shows, decoded once however many questions are about it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..common.processes import run_all
from ..errors import Ego2ExoError
from ..pages.thumbnails import picture_uri
from ..video import read_video
from .items import Item

FRAMES, SIDE, QUALITY = 6, 176, 72


@dataclass(frozen=True)
class Clip:
    """A video or a part of it.

    Args:
        path: of the file; "" where it was not found.
        video: as the data names it; plays no part in whether two clips are the same.
        start_s: where it begins, in seconds; None: at the start.
        end_s: where it ends; None: at the end.
    """

    path: str
    video: str = field(compare=False)
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Strip:
    """What is to be seen of a clip.

    Args:
        frames: (data URI, seconds after the clip's beginning).
        error: why there are none; "" otherwise.
    """

    frames: tuple[tuple[str, float], ...] = ()
    error: str = ""

    @property
    def size(self) -> int:
        """Bytes on the page."""
        return sum(len(uri) for uri, _ in self.frames)


def clip_of(items: Iterable[Item]) -> Clip:
    """The clip that these items are about, from the first one's beginning to the last one's end."""
    items = list(items)
    starts, ends = [item.start_s for item in items], [item.end_s for item in items]
    start = None if None in starts else min(starts)
    end = None if None in ends else max(ends)
    return Clip(items[0].path, items[0].video, start, end)


def strips(clips: Iterable[Clip]) -> dict[Clip, Strip]:
    """The frames of each different clip; one that cannot be read says why."""
    each = list(dict.fromkeys(clips))
    workers = min(4, os.cpu_count() or 1)
    return dict(zip(each, run_all(strip, each, workers, "frames for the report", "clip", progress=False), strict=True))


def strip(clip: Clip) -> Strip:
    """Evenly spaced frames, the first and the last among them."""
    if not clip.path:
        return Strip(error="the video was not found")
    try:
        read = read_video(clip.path, 1, FRAMES, True, clip.start_s, clip.end_s)
    except Ego2ExoError as error:
        return Strip(error=error.given)
    # A clip of fewer frames gives some of them twice.
    frames = dict(zip(read.times, read.frames, strict=True))
    return Strip(tuple((picture_uri(frame, SIDE, QUALITY), time) for time, frame in frames.items()))
