"""Legacy Smarthome-AR: the right option by its text."""

from __future__ import annotations

from .fields import Fields
from .layout import Layout, Question
from .options import take_choices, take_text


def _read(fields: Fields) -> list[Question]:
    choices = take_choices(fields, "choices")
    start_s, end_s = fields.span()
    return [
        Question(
            video=fields.video("video_id"),
            question=fields.text("question"),
            choices=choices,
            answer=take_text(fields, "ground_truth", choices),
            start_s=start_s,
            end_s=end_s,
        )
    ]


LEGACY_SMARTHOME = Layout("legacy Smarthome", ("video_id", "question", "choices", "ground_truth"), _read)
