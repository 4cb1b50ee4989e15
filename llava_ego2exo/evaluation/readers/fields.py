"""One row's values, each checked as it is taken out; all that is wrong with the row is collected."""

from __future__ import annotations

import math
import re
from typing import Any

from .names import base_name

# Longer than any recording; also keeps out integers that no float holds.
MAX_SECONDS = 1e7
_NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})?")
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")
_CONTROL = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")


class Fields:
    """The values of a row.

    Args:
        row: as the file holds it; anything but an object is a fault.
    """

    def __init__(self, row: Any) -> None:
        self.faults: list[str] = []
        self._taken: set[str] = set()
        self._is_object = isinstance(row, dict)
        self._row: dict[str, Any] = row if isinstance(row, dict) else {}
        if not self._is_object:
            self.fault(f"is {kind_of(row)}, not an object")

    def fault(self, text: str) -> None:
        """Note what is wrong with the row, once."""
        if text not in self.faults:
            self.faults.append(text)

    def value(self, key: str, optional: bool = False) -> Any:
        """As it stands; None, which is a fault unless `optional`, where it is missing or null."""
        self._taken.add(key)
        value = self._row.get(key)
        if value is None and not optional and self._is_object:
            self.fault(f"{key} is null" if key in self._row else f"lacks {key}")
        return value

    def has(self, key: str) -> bool:
        """Whether the row has it, and it is not null."""
        return self._row.get(key) is not None

    def unread(self) -> set[str]:
        """Keys of the row that no one asked for."""
        return self._row.keys() - self._taken

    def text(self, key: str) -> str:
        """A text that is not empty, blanks at its ends removed; "" after a fault."""
        value = self.value(key)
        if value is None:
            return ""
        reason = text_fault(value)
        if reason:
            self.fault(f"{key} {reason}")
            return ""
        return value.strip()

    def video(self, key: str) -> str:
        """Name or path of a video; "" after a fault."""
        value = self.text(key)
        if value and (_CONTROL.search(value) or not base_name(value)):
            self.fault(f"{key} {short(value)} names no file")
            return ""
        return value

    def seconds(self, key: str) -> float | None:
        """A number of seconds, perhaps as a text; None after a fault."""
        value = self.value(key)
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and 0 <= value <= MAX_SECONDS:
            return float(value)
        if value is not None:
            self.fault(f"{key} {short(value)} is no number of seconds from 0 on")
        return None

    def span(self) -> tuple[float | None, float | None]:
        """`start_timestamp` and `end_timestamp` in seconds; both None where the row has neither."""
        if not self.has("start_timestamp") and not self.has("end_timestamp"):
            return None, None
        start, end = self.seconds("start_timestamp"), self.seconds("end_timestamp")
        if start is not None and end is not None and end <= start:
            self.fault(f"end_timestamp {end:g} is not after start_timestamp {start:g}")
        return start, end


def text_fault(value: Any) -> str:
    """Why a value is no text that can be asked; "" where it is one."""
    if not isinstance(value, str):
        return f"is {kind_of(value)}, not a text"
    if not value.strip():
        return "is empty"
    return f"{short(value)} is no valid Unicode text" if _NO_TEXT.search(value) else ""


def kind_of(value: Any) -> str:
    """A JSON value's type, in words."""
    names = {type(None): "null", bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def short(value: Any) -> str:
    """A value for a message, in ASCII and not long."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}" if math.isfinite(value) and abs(value) <= MAX_SECONDS else "(too large)"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
