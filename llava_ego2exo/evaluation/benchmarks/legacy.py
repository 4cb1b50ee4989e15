"""Layouts that ADL-X's multiple choice was published in at first, one a set."""

from __future__ import annotations

from collections.abc import Mapping

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
from .layout import Layout, RawQuestion


def _question(
    fields: Fields, video: str, question: str, choices: Mapping[str, str], answer: str, precut: str = ""
) -> list[RawQuestion]:
    """The one question of a row; `video` and `question` are the keys of these fields."""
    return [
        RawQuestion(fields.video(video), fields.text(question), choices, answer, span=fields.span(), precut=precut)
    ]  # fmt: skip


def _charades(fields: Fields) -> list[RawQuestion]:
    """Numbered options in one string, each a Python list of actions."""
    lists = _numbered_options(fields)
    # An option is its actions in order: what the model reads is the same list without Python's signs.
    joined = {key: ", ".join(entry.strip() for entry in entries) for key, entries in lists.items()}
    choices = check_choices(fields, "Options", joined) if lists else {}
    return _question(fields, "id", "Q", choices, _listed_answer(fields, lists if choices else {}))


def _numbered_options(fields: Fields) -> dict[str, list[str]]:
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


def _listed_answer(fields: Fields, lists: dict[str, list[str]]) -> str:
    value = fields.value("Ground Truth")
    if value is None:
        return ""
    if not isinstance(value, list) or not value or any(map(text_fault, value)):
        fields.fault(f"Ground Truth {short(value)} is no list of texts")
        return ""
    wanted = [entry.strip() for entry in value]
    fitting = [key for key, entries in lists.items() if [entry.strip() for entry in entries] == wanted]
    return match(fields, "Ground Truth", str(value), fitting, lists)


def _smarthome(fields: Fields) -> list[RawQuestion]:
    """The right option by its text."""
    choices = take_choices(fields, "choices")
    return _question(fields, "video_id", "question", choices, take_text(fields, "ground_truth", choices))


def _lemma(fields: Fields) -> list[RawQuestion]:
    """Clips by their times in longer videos; they are published as files, too, which are named by their frames."""
    choices = take_choices(fields, "choices")
    for key in ("start_timestamp", "end_timestamp"):
        # null would mean the whole video, which no row of this layout asks about.
        if not fields.has(key):
            fields.seconds(key)
    video, frames = fields.video("video_id"), [fields.value(f"{end}_frame", optional=True) for end in ("start", "end")]
    known = all(isinstance(frame, int) and not isinstance(frame, bool) and 0 <= frame < 10**9 for frame in frames)
    precut = f"{without_suffix(video)}_{frames[0]}_{frames[1]}.mp4" if video and known else ""
    return _question(fields, "video_id", "question", choices, take_key_or_text(fields, "answer", choices), precut)


def _tsu(fields: Fields) -> list[RawQuestion]:
    """Clips by their paths; options in an object or a list, the right one by its key or its text."""
    choices = take_choices(fields, "options", lists=True)
    return _question(fields, "video_path", "question", choices, take_key_or_text(fields, "correct_answer", choices))


LEGACY_LAYOUTS = (
    Layout("legacy Charades", ("id", "Q", "Options", "Ground Truth"), _charades),
    Layout("legacy Smarthome", ("video_id", "question", "choices", "ground_truth"), _smarthome),
    Layout(
        "legacy LEMMA", ("video_id", "question", "choices", "answer", "start_timestamp", "end_timestamp"), _lemma
    ),
    Layout("legacy TSU", ("video_path", "question", "options", "correct_answer"), _tsu),
)  # fmt: skip
