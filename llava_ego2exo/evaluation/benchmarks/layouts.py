"""The published layouts of benchmark files: the current ones, and the first ones of ADL-X's multiple choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..items import CONSISTENCY_1, CONSISTENCY_2, MAIN, Item
from .fields import (
    Fields,
    check_choices,
    match,
    numbered_lists,
    short,
    take_choices,
    take_key,
    take_key_or_text,
    text_fault,
)
from .files import EGO, EXO, without_suffix
from .layout import Layout, RawQuestion

_CHOICE_KEYS = ("video_filename", "question", "answer_choices", "ground_truth_letter")
_DESCRIPTION_KEYS = ("video_name", "Q", "A", "cons_Q1", "cons_Q2", "cons_A")
# TSU-Description has no question of its own.
QUESTION = "Describe what the person in this video does, and with which objects."


def _choice(fields: Fields, video: str = "video_filename", files: Mapping[str, str] | None = None) -> list[RawQuestion]:
    choices = take_choices(fields, "answer_choices")
    lettered = fields.has("ground_truth_letter") or not fields.has("ground_truth")
    category = fields.text("category_name") if fields.has("category_name") else ""
    if category == "all":
        fields.fault("category_name 'all' is the name of the sum over categories")
    return [
        RawQuestion(
            video=fields.video(video),
            question=fields.text("question"),
            choices=choices,
            answer=take_key(fields, "ground_truth_letter" if lettered else "ground_truth", choices),
            category=category,
            span=fields.span(),
            files=files or {},
        )
    ]


def _choice_with_category(fields: Fields) -> list[RawQuestion]:
    fields.text("category_name")
    return _choice(fields)


def _choice_by_file(fields: Fields) -> list[RawQuestion]:
    """The file of each view is named, and used as it is."""
    named = [view for view in (EXO, EGO) if fields.has(f"{view}_filename")]
    return _choice(fields, "exo_filename", {view: fields.video(f"{view}_filename") for view in named})


def _charades_description(fields: Fields) -> list[RawQuestion]:
    """Three questions a row, the last two to be answered alike."""
    video = fields.video("video_name")
    main, answer = fields.text("Q"), fields.words("A")
    first, second, consistent = (fields.text(key) for key in _DESCRIPTION_KEYS[3:])
    parts = ((MAIN, main, answer), (CONSISTENCY_1, first, consistent), (CONSISTENCY_2, second, consistent))
    return [RawQuestion(video=video, question=question, answer=text, part=part) for part, question, text in parts]


def _tsu_rows(value: Any) -> list[tuple[str, Any]]:
    """Of an object of video -> description."""
    if not isinstance(value, dict):
        return []
    return [
        (f"row {ascii(video)}", {"video": video, "description": text} if isinstance(text, str) else text)
        for video, text in value.items()
    ]


def _tsu_description(fields: Fields) -> list[RawQuestion]:
    """One question about a long video, which is split into clips once the video's length is known."""
    return [RawQuestion(video=fields.video("video"), question=QUESTION, answer=fields.words("description"))]


def _question(
    fields: Fields, video: str, question: str, choices: Mapping[str, str], answer: str, precut: str = ""
) -> list[RawQuestion]:
    """The one question of a row; `video` and `question` are the keys of these fields."""
    span = fields.span()
    return [RawQuestion(fields.video(video), fields.text(question), choices, answer, span=span, precut=precut)]


def _charades(fields: Fields) -> list[RawQuestion]:
    """Numbered options in one string, each a Python list of actions."""
    lists = _numbered_options(fields)
    # An option is its actions in order: what the model reads is the same list without Python's signs.
    joined = {key: ", ".join(entry.strip() for entry in entries) for key, entries in lists.items()}
    choices = check_choices(fields, "Options", joined) if lists else {}
    return _question(fields, "id", "Q", choices, _listed_answer(fields, lists if choices else {}, choices))


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


def _listed_answer(fields: Fields, lists: dict[str, list[str]], choices: Mapping[str, str]) -> str:
    value = fields.value("Ground Truth")
    if value is None:
        return ""
    if not isinstance(value, list) or not value or any(map(text_fault, value)):
        fields.fault(f"Ground Truth {short(value)} is no list of texts")
        return ""
    wanted = [entry.strip() for entry in value]
    fitting = [key for key, entries in lists.items() if [entry.strip() for entry in entries] == wanted]
    return match(fields, "Ground Truth", str(value), fitting, choices)


def _smarthome(fields: Fields) -> list[RawQuestion]:
    """The right option by its text."""
    choices = take_choices(fields, "choices")
    return _question(fields, "video_id", "question", choices, take_key_or_text(fields, "ground_truth", choices))


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


EGO_IN_EXO = Layout("ego-in-exo", ("category_name", *_CHOICE_KEYS[:3]), _choice_with_category)
EGO_IN_EXO_FILES = Layout("ego-in-exo by files", ("exo_filename", *_CHOICE_KEYS[1:3]), _choice_by_file)
CURRENT = Layout("current", _CHOICE_KEYS, _choice)
CHARADES_DESCRIPTION = Layout("Charades-Description", _DESCRIPTION_KEYS, _charades_description)
TSU_DESCRIPTION = Layout("TSU-Description", ("video", "description"), _tsu_description, _tsu_rows, "an object of")
LEGACY_LAYOUTS = (
    Layout("legacy Charades", ("id", "Q", "Options", "Ground Truth"), _charades),
    Layout("legacy Smarthome", ("video_id", "question", "choices", "ground_truth"), _smarthome),
    Layout("legacy LEMMA", ("video_id", "question", "choices", "answer", "start_timestamp", "end_timestamp"), _lemma),
    Layout("legacy TSU", ("video_path", "question", "options", "correct_answer"), _tsu),
)


def split_into_clips(item: Item, duration_s: float, seconds: float = 1.0) -> list[Item]:
    """Items for consecutive clips of a video of `duration_s`, each of so many seconds, with the parts "0", "1", ...

    A rest shorter than half a clip belongs to the last one.
    """
    count = max(math.floor(duration_s / seconds + 0.5), 1)
    ends = [(number + 1) * seconds for number in range(count - 1)] + [float(duration_s)]
    return [
        replace(item, id=f"{item.id}:{number}", part=str(number), start_s=number * seconds, end_s=end)
        for number, end in enumerate(ends)
    ]
