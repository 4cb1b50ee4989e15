"""Legacy LEMMA-TC: clips by their times in longer videos."""

from __future__ import annotations

from .fields import Fields
from .layout import Layout, Question
from .names import without_suffix
from .options import take_choices, take_key_or_text


def _read(fields: Fields) -> list[Question]:
    choices = take_choices(fields, "choices")
    video = fields.video("video_id")
    for key in ("start_timestamp", "end_timestamp"):
        # null would mean the whole video, which no row of this layout asks about.
        if not fields.has(key):
            fields.seconds(key)
    start_s, end_s = fields.span()
    return [
        Question(
            video=video,
            question=fields.text("question"),
            choices=choices,
            answer=take_key_or_text(fields, "answer", choices),
            start_s=start_s,
            end_s=end_s,
            precut=_precut(fields, video),
        )
    ]


def _precut(fields: Fields, video: str) -> str:
    """The clips are published as files, too, which are named by their frames."""
    frames = [fields.value(key, optional=True) for key in ("start_frame", "end_frame")]
    known = all(isinstance(frame, int) and not isinstance(frame, bool) and 0 <= frame < 10**9 for frame in frames)
    return f"{without_suffix(video)}_{frames[0]}_{frames[1]}.mp4" if video and known else ""


LEGACY_SPANS = Layout(
    "legacy LEMMA", ("video_id", "question", "choices", "answer", "start_timestamp", "end_timestamp"), _read
)
