"""The values of a row and its options, each checked as it is read; all that is wrong with the row is collected."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from ..items import plain
from .files import base_name

# Longer than any recording; also keeps out integers that no float holds.
MAX_SECONDS = 1e7
_NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})?")
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")
_CONTROL = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")
_KEY = re.compile(r"[A-Za-z]|[0-9]{1,2}")
_LABELLED = re.compile(r"\(?([A-Za-z]|[0-9]{1,2})(?:[.:]\s+|\)\s*)(\S.*)", re.DOTALL)
_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_NUMBERED = re.compile(rf"\s*([0-9]{{1,2}})\.\s*(\[\s*(?:{_STRING}\s*(?:,\s*{_STRING}\s*)*(?:,\s*)?)?\])\s*", re.DOTALL)


class Fields:
    """The values of a row, and its faults; a row that is no object has that fault."""

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

    def words(self, key: str) -> str:
        """A text that says something, which "****" and "-" do not; "" after a fault."""
        value = self.text(key)
        if value and not any(map(str.isalpha, value)):
            self.fault(f"{key} {short(value)} has no word")
            return ""
        return value

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
    """The name of a JSON value's type, for messages."""
    names = {type(None): "null", bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def short(value: Any) -> str:
    """A value for a message, in ASCII and not long."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}" if math.isfinite(value) and abs(value) <= MAX_SECONDS else "(too large)"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def take_choices(fields: Fields, key: str, lists: bool = False) -> dict[str, str]:
    """key -> option text of a row; empty after a fault. With `lists` a list will do too.

    The entries of a list have the labels that all of them begin with, else the letters A, B, ...
    """
    value = fields.value(key)
    if lists and isinstance(value, list):
        parts = [_LABELLED.fullmatch(one.strip()) if isinstance(one, str) else None for one in value]
        labelled = {part[1]: part[2] for part in parts if part}
        # Beyond Z the keys are no letters, and are refused as such.
        value = labelled if len(labelled) == len(value) else {chr(65 + n): one for n, one in enumerate(value)}
    if not isinstance(value, dict):
        if value is not None:
            fields.fault(f"{key} is {kind_of(value)}, not an object of key: option")
        return {}
    return check_choices(fields, key, value)


def check_choices(fields: Fields, key: str, choices: Mapping[str, Any]) -> dict[str, str]:
    """The options with blanks at their ends removed; empty after a fault."""
    before = len(fields.faults)
    if len(choices) < 2:
        fields.fault(f"{key} has {len(choices)} option(s), not 2 or more")
    keys: dict[str, str] = {}
    for name, text in choices.items():
        if not _KEY.fullmatch(name):
            fields.fault(f"{key} has the key {short(name)}, not a letter or a number of up to 2 digits")
        other = keys.setdefault(name.lower(), name)
        if other != name:
            fields.fault(f"{key} has the keys {other} and {name}")
        reason = text_fault(text)
        if reason:
            fields.fault(f"{key} {short(name)} {reason}")
    return {} if len(fields.faults) > before else {name: text.strip() for name, text in choices.items()}


def take_key(fields: Fields, key: str, choices: Mapping[str, str]) -> str:
    """The right key where the row names it; "" after a fault."""
    value = fields.text(key)
    if value and choices and value not in choices:
        fields.fault(f"{key} {short(value)} is none of the choices {', '.join(choices)}")
        return ""
    return value


def take_key_or_text(fields: Fields, key: str, choices: Mapping[str, str]) -> str:
    """The right key where the row holds the key, the text, or both ("C. walk"); "" after a fault."""
    value = fields.text(key)
    fitting = [name for name, text in choices.items() if value == name or plain(text) == plain(value)]
    label = _LABELLED.fullmatch(value)
    if label and plain(choices.get(label[1], "")) == plain(label[2]):
        fitting.append(label[1])
    return match(fields, key, value, list(dict.fromkeys(fitting)), choices)


def match(fields: Fields, key: str, value: str, fitting: list[str], choices: Mapping[str, str]) -> str:
    """The one option that fits, the first of several with one text; "" after a fault, and where there was one."""
    if not value or not choices:
        return ""
    if len({plain(choices[name]) for name in fitting}) != 1:
        which = f"several options: {', '.join(fitting)}" if fitting else "no option"
        fields.fault(f"{key} {short(value)} matches {which}")
        return ""
    return fitting[0]


def numbered_lists(text: str) -> dict[str, list[str]] | None:
    """Number -> entries of "1. ['a', 'b'] 2. ['c']"; None where a text is anything else, or a number occurs twice."""
    found: dict[str, str] = {}
    place = 0
    while place < len(text):
        part = _NUMBERED.match(text, place)
        if not part or part[1] in found:
            return None
        found[part[1]] = part[2]
        place = part.end()
    try:
        with warnings.catch_warnings():
            # Python warns of "\d", which stands for itself.
            warnings.simplefilter("ignore")
            return {number: ast.literal_eval(entries) for number, entries in found.items()}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
