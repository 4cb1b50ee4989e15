"""Messages to a judge: quoted material that cannot end its own quotation, and the task behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from . import judge_wording as wording
from .judge_answers import plain
from .judge_wording import PROMPT_VERSION

__all__ = ["ASPECTS", "CONSISTENCY", "PROMPT_VERSION", "Messages", "prompt_texts", "prompts_hash"]

# Asked of the reply to the main question; consistency is asked of two replies.
ASPECTS = ("correctness", "detail", "context", "temporal")
CONSISTENCY, MERGE, CHOICE, CHECK = "consistency", "merge", "choice", "check"

Messages = list[dict[str, str]]

# What is asked -> (system text, task).
_TEXTS = {
    **{
        aspect: (wording.GRADER + wording.QUOTED, getattr(wording, aspect.upper()) + wording.FORM)
        for aspect in (*ASPECTS, CONSISTENCY)
    },
    MERGE: (wording.MERGER + wording.QUOTED, wording.MERGE),
    CHOICE: (wording.READER + wording.QUOTED, wording.CHOICE),
    CHECK: (wording.QUOTED, wording.CHECK),
}


def prompt_texts() -> dict[str, str]:
    """What is asked -> what the judge is told around the quoted material."""
    return {kind: f"{system.strip()}\n\n[material]\n\n{task.strip()}" for kind, (system, task) in _TEXTS.items()}


def prompts_hash() -> str:
    """sha256 of all wordings, in hex."""
    return hashlib.sha256(json.dumps(prompt_texts(), sort_keys=True).encode()).hexdigest()


def grade(aspect: str, material: Mapping[str, str]) -> Messages:
    """Ask for the score of one aspect.

    Each aspect has a call of its own: a judge that gives several scores at once lets one pull the others, and one
    answer that is not valid would lose them all.

    Args:
        aspect: one of `ASPECTS`, or "consistency".
        material: QUESTION, REFERENCE, REPLY; for consistency QUESTION 1, QUESTION 2, REFERENCE, REPLY 1, REPLY 2.
    """
    return _messages(aspect, material)


def merge(notes: Sequence[str]) -> Messages:
    """Ask for one description of consecutive stretches, each note with its time in front."""
    return _messages(MERGE, {"NOTES": "\n".join(notes)})


def choose(question: str, choices: Mapping[str, str], reply: str) -> Messages:
    """Ask which option a reply chooses."""
    options = "\n".join(f"{key}: {text}" for key, text in choices.items())
    return _messages(CHOICE, {"QUESTION": question, "OPTIONS": options, "REPLY": reply})


def check() -> Messages:
    """Ask for a sign of life."""
    return _messages(CHECK, {})


def shortened(text: str, most: int) -> str:
    """The text, without its middle where it is longer than `most` characters; a remark says how much is missing."""
    if len(text) <= most:
        return text
    gap = f"\n[... {len(text) - most} characters left out ...]\n"
    return text[: most - most // 2] + gap + text[len(text) - most // 2 :]


def _messages(kind: str, material: Mapping[str, str]) -> Messages:
    system, task = _TEXTS[kind]
    # The task stands behind the material: the calls about one reply begin alike, which servers can make use of, and the
    # last word is ours.
    return [
        {"role": "system", "content": system.strip()},
        {"role": "user", "content": "\n\n".join([*_quoted(material), task.strip()])},
    ]


def _quoted(material: Mapping[str, str]) -> list[str]:
    texts = {name: plain(text).strip() for name, text in material.items()}
    # No text can hold a hash of itself, so none can end its own quotation.
    mark = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]
    return [f"BEGIN {name} {mark}\n{text}\nEND {name} {mark}" for name, text in texts.items()]
