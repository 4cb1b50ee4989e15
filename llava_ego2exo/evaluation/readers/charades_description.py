"""Charades-Description: three questions a row, the last two to be answered alike."""

from __future__ import annotations

from ..items import CONSISTENCY_1, CONSISTENCY_2, MAIN
from .fields import Fields
from .layout import Layout, Question

_KEYS = ("video_name", "Q", "A", "cons_Q1", "cons_Q2", "cons_A")


def _read(fields: Fields) -> list[Question]:
    video, main, answer, first, second, consistent = (
        fields.video(key) if key == "video_name" else fields.text(key) for key in _KEYS
    )
    asked = ((MAIN, main, answer), (CONSISTENCY_1, first, consistent), (CONSISTENCY_2, second, consistent))
    return [Question(video=video, question=question, answer=text, part=part) for part, question, text in asked]


CHARADES_DESCRIPTION = Layout("Charades-Description", _KEYS, _read)
