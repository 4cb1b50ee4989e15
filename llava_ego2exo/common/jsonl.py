"""Append-only files of one JSON object a line: a killed run loses at most the line being written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from ..errors import Ego2ExoError
from .json_io import parse_json, read_raw_lines
from .text import shorten_list

Record = TypeVar("Record")
_BLOCK = 1 << 20


def json_line(record: Any) -> str:
    """One record as it stands in a file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def record_of(kind: type[Record], value: Any, types: Mapping[str, tuple[type, ...]]) -> Record:
    """A dataclass from a JSON object that has exactly its fields; a list becomes a tuple.

    Args:
        kind: the dataclass.
        value: what was read.
        types: field -> types of its value; those that are not named are strings.

    Raises:
        ValueError: it is no such object.
    """
    if not isinstance(value, dict):
        raise ValueError("no object")
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if value.keys() != names:
        raise ValueError(f"lacks {sorted(names - value.keys())}, has unknown {sorted(value.keys() - names)}")
    odd = [name for name, one in value.items() if not isinstance(one, types.get(name, (str,)))]
    if odd:
        raise ValueError(f"{', '.join(odd)} of another type than expected")
    return kind(**{name: tuple(one) if isinstance(one, list) else one for name, one in value.items()})


class AppendFile:
    """Appends records to a file; a line that a killed run left torn is dropped first.

    Args:
        path: made, with its folders, if it is not there; removed again by `close` where it stayed empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab+")
        self._drop_torn_line()

    def append(self, records: Iterable[Any]) -> None:
        """Add records; when this returns they are on disk."""
        self._file.write("".join(map(json_line, records)).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; an empty one is removed."""
        empty = self._file.tell() == 0
        self._file.close()
        if empty:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> AppendFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(end - _BLOCK, 0)
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)


def read_lines(path: Path, parse: Callable[[Any], Record], torn: bool, origin: str) -> Iterator[Record]:
    """The records of one file.

    Args:
        path: of the file.
        parse: one JSON value -> record; raises ValueError or TypeError where it is none.
        torn: whether the last line may be torn, and is then left out.
        origin: the command that writes such files, for messages.

    Raises:
        Ego2ExoError: at the end, naming every damaged line.
    """
    faults: list[str] = []
    for number, line in enumerate(read_raw_lines(path, f"what `{origin}` writes"), 1):
        if not line.strip():
            continue
        if not line.endswith(b"\n"):
            faults += [] if torn else [f"line {number} is torn"]
            continue
        try:
            record = parse(parse_json(line.decode()))
        except (ValueError, TypeError) as error:
            faults.append(f"line {number}: {ascii(str(error))[1:-1][:100]}")
        else:
            yield record
    if faults:
        raise Ego2ExoError(
            f"{path}: {len(faults)} damaged line(s): {shorten_list(faults)}",
            f"the records that `{origin}` writes",
            f"delete these lines and run the same `{origin}` again, which makes their records again",
        )
