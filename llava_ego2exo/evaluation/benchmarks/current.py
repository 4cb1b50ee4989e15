"""Today's rows: Ego-in-Exo Perception, and ADL-X's multiple choice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ...errors import Ego2ExoError
from ..items import CONSISTENCY_1, CONSISTENCY_2, DESCRIPTION, MAIN, Item
from .fields import Fields, take_choices, take_key
from .layout import Layout, Question, labelled

_KEYS = ("video_filename", "question", "answer_choices", "ground_truth_letter")


def _read(fields: Fields, category: str) -> list[Question]:
    choices = take_choices(fields, "answer_choices")
    start_s, end_s = fields.span()
    return [
        Question(
            video=fields.video("video_filename"),
            question=fields.text("question"),
            choices=choices,
            answer=take_key(fields, "ground_truth_letter", choices),
            category=category,
            start_s=start_s,
            end_s=end_s,
        )
    ]


def _ego_in_exo(fields: Fields) -> list[Question]:
    return _read(fields, fields.text("category_name"))


def _adlx(fields: Fields) -> list[Question]:
    return _read(fields, fields.text("category_name") if fields.has("category_name") else "")


EGO_IN_EXO = Layout("ego-in-exo", ("category_name", *_KEYS), _ego_in_exo)
TODAY = Layout("today", _KEYS, _adlx)


# Charades-Description: three questions a row, the last two to be answered alike.

_KEYS_CHARADES_DESCRIPTION = ("video_name", "Q", "A", "cons_Q1", "cons_Q2", "cons_A")


def _read_charades_description(fields: Fields) -> list[Question]:
    video, main, answer, first, second, consistent = (
        fields.video(key) if key == "video_name" else fields.text(key) for key in _KEYS_CHARADES_DESCRIPTION
    )
    asked = ((MAIN, main, answer), (CONSISTENCY_1, first, consistent), (CONSISTENCY_2, second, consistent))
    return [Question(video=video, question=question, answer=text, part=part) for part, question, text in asked]


CHARADES_DESCRIPTION = Layout("Charades-Description", _KEYS_CHARADES_DESCRIPTION, _read_charades_description)


# TSU-Description: a long video's description, which is asked for clip by clip.

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


def _read_tsu_description(fields: Fields) -> list[Question]:
    return [Question(video=fields.video("video"), question=QUESTION, answer=fields.text("description"))]


class _Described(Layout):
    def fits(self, row: Any) -> bool:
        return super().fits(row) and isinstance(row["description"], str)


TSU_DESCRIPTION = _Described("TSU-Description", ("video", "description"), _read_tsu_description, _rows, "an object of")


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
