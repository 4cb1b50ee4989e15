"""A judge's answers on disk, by content: what was answered once is not asked again."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..runs.jsonl import AppendFile, read_lines
from .replies import ORIGIN

FILE = "judge_cache.jsonl"


@dataclass(frozen=True)
class Kept:
    """One answer.

    Args:
        key: of model, prompt version, messages and settings.
        kind: what was asked: an aspect, "merge" or "choice".
        answer: as the judge gave it.
        model: as the server calls what answered.
        sent: settings that the server took.
    """

    key: str
    kind: str
    answer: str
    model: str
    sent: dict[str, Any]


class JudgeCache:
    """Answers of one folder; threads may use it at once.

    Args:
        folder: of the results; the file is made with the first answer.

    Raises:
        Ego2ExoError: a line is damaged. The last one may be torn.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder, FILE)
        self._guard = threading.Lock()
        self._file: AppendFile | None = None
        self._kept: dict[str, Kept] = {}
        if self.path.is_file():
            self._kept = {kept.key: kept for kept in read_lines(self.path, _kept, torn=True, origin=ORIGIN)}

    def get(self, key: str) -> Kept | None:
        """The answer of a key; None where there is none."""
        return self._kept.get(key)

    def add(self, kept: Kept) -> None:
        """Keep an answer; when this returns it is on disk."""
        with self._guard:
            if self._file is None:
                self._file = AppendFile(self.path)
            self._file.append([asdict(kept)])
            self._kept[kept.key] = kept

    def close(self) -> None:
        """Close the file."""
        with self._guard:
            if self._file is not None:
                self._file.close()
                self._file = None


def _kept(record: Any) -> Kept:
    names = {field.name for field in fields(Kept)}
    if not isinstance(record, dict) or record.keys() != names:
        raise ValueError("no answer of a judge")
    odd = [name for name, value in record.items() if not isinstance(value, dict if name == "sent" else str)]
    if odd:
        raise ValueError(f"{', '.join(odd)} of another type than expected")
    return Kept(**record)
