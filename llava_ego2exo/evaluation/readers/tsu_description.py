"""TSU-Description: a long video's description, which is asked for clip by clip."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ...errors import Ego2ExoError
from ..items import DESCRIPTION, Item
from .fields import Fields
from .layout import Layout, Question, labelled

# The file has no question; these are our words.
QUESTION = "Describe what the person in this video does, and with which objects."
MAX_CLIPS = 100_000


def _rows(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return []
    return [
        (name, {"video": video, "description": value[video]})
        for (name, _), video in zip(labelled(value), value, strict=True)
    ]


def _read(fields: Fields) -> list[Question]:
    return [Question(video=fields.video("video"), question=QUESTION, answer=fields.text("description"))]


class _Described(Layout):
    def fits(self, row: Any) -> bool:
        return super().fits(row) and isinstance(row["description"], str)


TSU_DESCRIPTION = _Described("TSU-Description", ("video", "description"), _read, _rows, "an object of")


def split_into_clips(item: Item, duration_s: float, seconds: float = 1.0) -> list[Item]:
    """Items for consecutive clips of a video, with the parts "0", "1", ...

    A rest shorter than half a clip belongs to the last one.

    Args:
        item: a description of a whole video, with the part "".
        duration_s: of the video, in seconds.
        seconds: of a clip.

    Raises:
        Ego2ExoError: the item is of another kind, a length is not positive, or the clips are too many.
    """
    if item.kind != DESCRIPTION or item.part or item.start_s is not None or item.end_s is not None:
        raise Ego2ExoError(
            f"{item.id} cannot be split into clips", "a description of a whole video", "pass such an item"
        )
    if not (math.isfinite(duration_s) and math.isfinite(seconds) and duration_s > 0 and seconds > 0):
        raise Ego2ExoError(
            f"{item.video}: {duration_s} s in clips of {seconds} s", "lengths above 0", "check the video and the length"
        )
    if duration_s / seconds > MAX_CLIPS:
        raise Ego2ExoError(
            f"{item.video}: {duration_s:g} s in clips of {seconds:g} s", f"{MAX_CLIPS} clips", "make the clips longer"
        )
    count = max(math.floor(duration_s / seconds + 0.5), 1)
    ends = [(number + 1) * seconds for number in range(count - 1)] + [float(duration_s)]
    return [
        replace(item, id=f"{item.id}:{number}", part=str(number), start_s=number * seconds, end_s=end)
        for number, end in enumerate(ends)
    ]
