"""Descriptions of long videos are asked for clip by clip, as TSU-Description does."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Ego2ExoError
from ..video import video_seconds
from ..video.limits import VideoLimits
from .items import DESCRIPTION, Item
from .readers.tsu_description import split_into_clips


def split_long(items: Sequence[Item], seconds: float = 1.0, limits: VideoLimits | None = None) -> list[Item]:
    """The items, each description of a whole video as those of its clips.

    Args:
        items: with their paths.
        seconds: of a clip.
        limits: what a video may be; None: the defaults.
    """
    return [part for item in items for part in _parts(item, seconds, limits)]


def _parts(item: Item, seconds: float, limits: VideoLimits | None) -> list[Item]:
    if item.kind != DESCRIPTION or item.part or not item.path:
        return [item]
    try:
        duration = video_seconds(item.path, limits)
    except Ego2ExoError:
        return [item]  # what does not open here fails by name when its turn comes
    return split_into_clips(item, duration, seconds)
