"""Models behind OpenAI-compatible ports: their keys, their replies, and their faults in one line that holds no key."""

from __future__ import annotations

import os
import re
from typing import Any

from ..errors import Ego2ExoError

# Shorter keys are placeholders ("none", "ollama"), which may stand in any text.
_SHORTEST_SECRET = 8


def environment_key(variable: str, flag: str) -> str:
    """The key in an environment variable, which `flag` names.

    Raises:
        Ego2ExoError: it is not set, or empty.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise Ego2ExoError(
            f"{flag} {variable}: this environment variable is not set or empty", "a variable that holds the key",
            f"export {variable}=...",
        )  # fmt: skip
    return key


def shown_url(url: str) -> str:
    """A URL that is safe to show: without user, password and query."""
    return re.sub(r"//[^/]*@", "//", re.split("[?#]", url)[0])


def without_key(text: str, key: str) -> str:
    """A text that a server may have quoted the key in."""
    return text.replace(key, "(key)") if len(key) >= _SHORTEST_SECRET else text


def reason_of(error: Exception, key: str) -> str:
    """An error of the `openai` client in one line."""
    status, body = getattr(error, "status_code", None), getattr(error, "body", None)
    text = str((body.get("message") if isinstance(body, dict) else body) or error.__cause__ or error)
    text = " ".join(text.split()) or type(error).__name__
    return without_key(f"HTTP {status}: {text}" if status else text, key)[:200]


def reply_text(reply: Any) -> str:
    """The text of a chat completion; servers differ in what they leave out or send instead.

    Raises:
        ValueError: there is none.
    """
    try:
        choice = reply.choices[0]
        text = choice.message.content
    except (AttributeError, LookupError, TypeError):
        raise ValueError("the server's reply is not a chat completion") from None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"a reply without text (finish_reason {getattr(choice, 'finish_reason', None)})")
    return text
