"""Legacy Charades-AR: numbered options in one string, each a Python list of actions."""

from __future__ import annotations

from .fields import Fields, short, text_fault
from .layout import Layout, Question
from .options import check_choices, match, numbered_lists


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
