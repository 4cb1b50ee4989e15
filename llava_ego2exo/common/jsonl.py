"""Append-only files of one JSON object a line: a killed run loses at most the line being written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Ego2ExoError
from .json_io import parse_json, read_raw_lines
from .text import shorten_list

if TYPE_CHECKING:  # in `typing` from Python 3.11 on
    from typing_extensions import Self

Record = TypeVar("Record")


def json_line(record: Any) -> str:
    """A record, which may be a dataclass, as a line of a file."""
    return json.dumps(record, ensure_ascii=False, default=asdict) + "\n"


def record_of(kind: type[Record], value: Any, types: Mapping[str, tuple[type, ...]]) -> Record:
    """A dataclass of a JSON object with exactly its fields; a list becomes a tuple.

    `types` are those of the fields that are no strings.

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
    """Appends records to a file; a line that a killed run left torn is dropped first, and an empty file at the end."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab+")
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def append(self, records: Iterable[Any]) -> None:
        """Add records; when this returns they are on disk."""
        self._file.write("".join(map(json_line, records)).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if not self.path.stat().st_size:
            self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_lines(path: Path, parse: Callable[[Any], Record], torn: bool, origin: str) -> Iterator[Record]:
    """The records of a file; `parse` raises ValueError or TypeError for other values.

    With `torn` a torn last line is skipped; `origin` is the command that writes such files.

    Raises:
        Ego2ExoError: at the end, naming the damaged lines.
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
