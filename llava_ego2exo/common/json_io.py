"""Text and JSON files, refused by name where they cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError

DEFAULT_MAX_MB = 512
_max_mb = DEFAULT_MAX_MB


def set_max_mb(megabytes: int, flag: str = "--max-json-mb") -> None:
    """Set the largest size in MiB of a file that is read as a whole."""
    global _max_mb
    if megabytes < 1:
        raise Ego2ExoError(f"{flag} {megabytes}", "1 or more", f"leave it out for {DEFAULT_MAX_MB}")
    _max_mb = megabytes


def read_text(path: str | Path, what: str, encoding: str = "utf-8-sig") -> str:
    """The text of a UTF-8 file of at most `--max-json-mb`, without byte order mark unless the encoding is "utf-8".

    Raises:
        Ego2ExoError: it is missing, too large, not readable or not UTF-8.
    """
    with _readable(path, what):
        size = os.path.getsize(path)
        if size > _max_mb * 2**20:
            raise Ego2ExoError(
                f"{path} has {size} bytes",
                f"{what} of at most {_max_mb} MiB",
                "check the path, or raise --max-json-mb (in training --ego2exo_max_json_mb)",
            )
        return Path(path).read_text(encoding=encoding)


def read_json(path: str | Path, what: str, encoding: str = "utf-8-sig") -> Any:
    """The value of a JSON file.

    Raises:
        Ego2ExoError: as :func:`read_text`, or it is no JSON.
    """
    text = read_text(path, what, encoding)
    try:
        return parse_json(text)
    except ValueError as error:
        remedy = "fix the file, copy it again if it breaks off, or check the path"
        raise Ego2ExoError(f"{path} is no JSON: {error}", what, remedy) from error


def read_json_lines(path: str | Path, what: str, encoding: str = "utf-8-sig") -> list[Any]:
    """The value of each line of a JSONL file; empty lines are left out.

    Raises:
        Ego2ExoError: as :func:`read_text`, or a line is no JSON.
    """
    values = []
    for number, line in enumerate(read_text(path, what, encoding).split("\n"), 1):
        if line.strip():
            try:
                values.append(parse_json(line))
            except ValueError as error:
                given = f"{path} line {number} is no JSON: {error}"
                raise Ego2ExoError(given, what, "fix or remove this line") from error
    return values


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_raw_lines(path: str | Path, what: str) -> Iterator[bytes]:
    """The lines of a file with their ends, one in memory at a time.

    Raises:
        Ego2ExoError: it cannot be read.
    """
    with _readable(path, what), open(path, "rb") as file:
        yield from file


@contextmanager
def _readable(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        reason = f"{path} is not UTF-8: {error.reason} at byte {error.start}"
        raise Ego2ExoError(reason, what, "save it as UTF-8") from error
    except OSError as error:
        raise Ego2ExoError(f"{path} cannot be read: {error.strerror or error}", what, "check the path") from error
