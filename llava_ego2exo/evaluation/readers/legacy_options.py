"""Legacy TSU-TC: clips by their paths; options in an object or a list, the right one by its key or its text."""

from __future__ import annotations

from .fields import Fields
from .layout import Layout, Question
from .options import take_choices, take_key_or_text


def _read(fields: Fields) -> list[Question]:
    choices = take_choices(fields, "options", lists=True)
    start_s, end_s = fields.span()
    return [
        Question(
            video=fields.video("video_path"),
            question=fields.text("question"),
            choices=choices,
            answer=take_key_or_text(fields, "correct_answer", choices),
            start_s=start_s,
            end_s=end_s,
        )
    ]


LEGACY_OPTIONS = Layout("legacy TSU", ("video_path", "question", "options", "correct_answer"), _read)
