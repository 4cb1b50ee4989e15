"""The file of questions that `watch` asks about each window."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.json_io import read_json
from ..errors import Ego2ExoError

_ALLOWED = 'a list of {"name": "hand", "question": "Which hand holds the cup?", "options": ["left", "right"]}'
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class WatchQuestion:
    """One question; without options it is answered by a text."""

    name: str  # in topics and lines
    question: str
    options: tuple[str, ...] = ()


def read_questions(file: Path) -> list[WatchQuestion]:
    """The questions of a JSON file.

    Raises:
        Ego2ExoError: every entry that is no question, each with its place.
    """
    entries = read_json(file, "--questions")
    if not isinstance(entries, list) or not entries:
        raise Ego2ExoError(f"--questions {file} is no list of questions", _ALLOWED, "write one")
    faults = [f"entry {place}: {fault}" for place, entry in enumerate(entries, 1) for fault in _faults(entry)]
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    faults += [f"name {name!r} twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if faults:
        raise Ego2ExoError(f"--questions {file}: {'; '.join(faults)}", _ALLOWED, "correct these")
    return [WatchQuestion(one["name"], one["question"], tuple(one.get("options", ()))) for one in entries]


def _faults(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return ["no object"]
    found = [f"unknown field {key}" for key in sorted(entry.keys() - {"name", "question", "options"})]
    if not isinstance(entry.get("name"), str) or not _NAME.fullmatch(entry["name"]):
        found.append("a name is letters, digits, _ and -")
    if not isinstance(entry.get("question"), str) or not entry["question"].strip():
        found.append("no question")
    options = entry.get("options", ["a", "b"])
    good = isinstance(options, list) and all(isinstance(one, str) and one.strip() for one in options)
    if not good or len(options) < 2 or len(set(options)) < len(options):
        found.append("options are two or more different texts")
    return found
