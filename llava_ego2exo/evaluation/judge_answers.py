"""What counts as a judge's answer: one JSON object with the one value that was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

LOWEST, HIGHEST = 0, 5
# Some models think aloud before they answer.
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"\A```[a-zA-Z]*\s*(.*?)\s*```\Z", re.DOTALL)


def mark_of(answer: str) -> float:
    """The score of ``{"score": 4, "reason": "..."}``.

    Raises:
        ValueError: it is no such object, or the score is no number from 0 to 5.
    """
    score = _object(answer, "score")
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise ValueError(f"the score is {_shown(score)}, not a number")
    # NaN, which JSON readers let pass, is in no range.
    if not LOWEST <= score <= HIGHEST:
        raise ValueError(f"the score is {_shown(score)}, not {LOWEST} to {HIGHEST}")
    return float(score)


def summary_of(answer: str) -> str:
    """The text of ``{"summary": "..."}``.

    Raises:
        ValueError: it is no such object, or there is no text.
    """
    summary = _object(answer, "summary")
    if not isinstance(summary, str) or not summary.strip():
        raise ValueError(f"the summary is {_shown(summary)}, not a text")
    return plain(summary).strip()


def choice_of(keys: Collection[str]) -> Callable[[str], str | None]:
    """What reads ``{"choice": "B"}`` or ``{"choice": null}``: one of `keys`, or None.

    The function raises ValueError where an answer is no such object, or names another key.
    """

    def read(answer: str) -> str | None:
        choice = _object(answer, "choice")
        # Keys may be digits.
        key = str(choice) if isinstance(choice, int) and not isinstance(choice, bool) else choice
        if key is not None and not (isinstance(key, str) and key in keys):
            raise ValueError(f"the choice is {_shown(choice)}, not one of {', '.join(keys)} or null")
        return key

    return read


def plain(text: str) -> str:
    """Text that can be written as UTF-8: half characters become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _object(answer: str, name: str) -> Any:
    text = _THOUGHT.sub("", answer).strip()
    fenced = _FENCED.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        raise ValueError(f"no JSON object: {_shown(text)}") from None
    if not isinstance(value, dict) or name not in value:
        raise ValueError(f"no JSON object with {name!r}: {_shown(text)}")
    return value[name]


def _shown(value: Any) -> str:
    try:
        text = ascii(value)
    except (RecursionError, ValueError):
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
