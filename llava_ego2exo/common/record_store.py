"""Records of a resumable run: one part file for each process while it runs, one file in order when it has ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .files import write_atomic
from .jsonl import AppendFile, json_line, read_lines, record_of

Record = TypeVar("Record")


def content_key(content: Any) -> str:
    """32 hex digits that are the same for the same JSON content: a record's identity, wherever its files lie."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class RecordStore(Generic[Record]):
    """The records of a folder: ``NAME.jsonl``, and ``NAME.part-RANK.jsonl`` of a run that has not ended.

    `kind` is the dataclass of a record, `types` as of :func:`record_of`; `command` writes such records.
    """

    folder: Path
    name: str
    kind: type[Record]
    types: Mapping[str, tuple[type, ...]]
    command: str

    def read(self) -> Iterator[Record]:
        """All records: those of the finished file, then those of the parts.

        Raises:
            Ego2ExoError: a line is damaged. The last line of a part may be torn.
        """
        for path in (self._finished, *self._parts()):
            if path.is_file():
                yield from read_lines(path, self._record, torn=path != self._finished, origin=self.command)

    def part(self, rank: int = 0) -> AppendFile:
        """The open file that process `rank` appends to."""
        return AppendFile(self.folder / f"{self.name}.part-{rank}.jsonl")

    def finish(self, records: Iterable[Record]) -> Path:
        """Write the finished file in the order given, then remove the parts: no record is missing at any moment."""
        path = write_atomic(self._finished, "".join(map(json_line, records)))
        for part in self._parts():
            part.unlink()
        return path

    @property
    def _finished(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}.part-*.jsonl"))

    def _record(self, value: Any) -> Record:
        return record_of(self.kind, value, self.types)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each value that is not the same, as ``settings.dtype: "float32", now "bfloat16"``.

    Mappings inside are compared key by key, everything else as a whole; a missing key counts as null.
    """
    lines = []
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            lines.append(f"{prefix}{name}: {_short(before)}, now {_short(now)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
