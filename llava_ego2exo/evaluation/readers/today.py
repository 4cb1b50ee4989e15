"""Today's rows: Ego-in-Exo Perception, and ADL-X's multiple choice."""

from __future__ import annotations

from .fields import Fields
from .layout import Layout, Question
from .options import take_choices, take_key

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
