"""Legacy Charades-AR: numbered options in one string, each a Python list of actions."""

from __future__ import annotations

from .fields import (
    Fields,
    check_choices,
    match,
    numbered_lists,
    short,
    take_choices,
    take_key_or_text,
    take_text,
    text_fault,
)
from .files import without_suffix
from .layout import Layout, Question


def _read(fields: Fields) -> list[Question]:
    lists = _options(fields)
    # An option is its actions in order: what the model reads is the same list without Python's signs.
    joined = {key: ", ".join(entry.strip() for entry in entries) for key, entries in lists.items()}
    choices = check_choices(fields, "Options", joined) if lists else {}
    start_s, end_s = fields.span()
    return [
        Question(
            video=fields.video("id"),
            question=fields.text("Q"),
            choices=choices,
            answer=_answer(fields, lists if choices else {}),
            start_s=start_s,
            end_s=end_s,
        )
    ]


def _options(fields: Fields) -> dict[str, list[str]]:
    text = fields.text("Options")
    if not text:
        return {}
    lists = numbered_lists(text)
    if lists is None:
        fields.fault(f"Options {short(text)} is not of the form \"1. ['...', '...'] 2. ['...'] ...\"")
        return {}
    bare = [key for key, entries in lists.items() if not entries or any(map(text_fault, entries))]
    if bare:
        fields.fault(f"Options {', '.join(bare)} is empty or has an empty entry")
        return {}
    return lists


def _answer(fields: Fields, lists: dict[str, list[str]]) -> str:
    value = fields.value("Ground Truth")
    if value is None:
        return ""
    if not isinstance(value, list) or not value or any(map(text_fault, value)):
        fields.fault(f"Ground Truth {short(value)} is no list of texts")
        return ""
    wanted = [entry.strip() for entry in value]
    fitting = [key for key, entries in lists.items() if [entry.strip() for entry in entries] == wanted]
    return match(fields, "Ground Truth", str(value), fitting, lists)


LEGACY_CHARADES = Layout("legacy Charades", ("id", "Q", "Options", "Ground Truth"), _read)


# Legacy TSU-TC: clips by their paths; options in an object or a list, the right one by its key or its text.


def _read_legacy_options(fields: Fields) -> list[Question]:
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


LEGACY_OPTIONS = Layout("legacy TSU", ("video_path", "question", "options", "correct_answer"), _read_legacy_options)


# Legacy Smarthome-AR: the right option by its text.


def _read_legacy_smarthome(fields: Fields) -> list[Question]:
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


LEGACY_SMARTHOME = Layout(
    "legacy Smarthome", ("video_id", "question", "choices", "ground_truth"), _read_legacy_smarthome
)


# Legacy LEMMA-TC: clips by their times in longer videos.


def _read_legacy_spans(fields: Fields) -> list[Question]:
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
    "legacy LEMMA",
    ("video_id", "question", "choices", "answer", "start_timestamp", "end_timestamp"),
    _read_legacy_spans,
)
