"""A benchmark's JSON, read so that nothing in it is lost or guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import Ego2ExoError
from ...runs.json_text import max_mb, parse_json

_REMEDY = "get the file anew, or mend it"


def load_json(path: Path, max_bytes: int | None = None) -> Any:
    """What a file holds.

    Args:
        path: of the file.
        max_bytes: largest file that is read; None: what `--max-json-mb` allows.

    Raises:
        Ego2ExoError: it is no file, too large, no UTF-8 or no JSON (with line and column), nested too deep, holds NaN
            or an infinity, or an object in it holds a key twice.
    """
    text = _text(path, max_mb() * 2**20 if max_bytes is None else max_bytes)
    try:
        return parse_json(text, checked=True)
    except json.JSONDecodeError as error:
        raise _no_json(path, text, error) from error
    except ValueError as error:
        raise Ego2ExoError(
            f"{path} is no JSON that can be read: {str(error)[:200]}",
            "finite numbers, each key once in its object, and a few lists and objects in each other",
            _REMEDY,
        ) from error


def _text(path: Path, max_bytes: int) -> str:
    # A pipe or a device would be waited for.
    if not path.is_file():
        raise Ego2ExoError(f"--data {path} is no file", "a benchmark's JSON file, or its folder", "check the path")
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise Ego2ExoError(
                f"{path} has {size} bytes",
                f"{max_bytes} bytes at most",
                "check that this is the benchmark's JSON; a larger one is read with --max-json-mb",
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Ego2ExoError(f"{path} is no UTF-8: byte {error.start} is {error.reason}", "UTF-8", _REMEDY) from error
    except OSError as error:
        raise Ego2ExoError(f"{path} cannot be read: {error.strerror}", "a file of yours", "mend its rights") from error


def _no_json(path: Path, text: str, error: json.JSONDecodeError) -> Ego2ExoError:
    where = f"line {error.lineno}, column {error.colno}"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return Ego2ExoError(
            f"{path} is no JSON: it breaks off at {where} of {text.count(chr(10)) + 1} lines ({error.msg})",
            "a whole file",
            "it was cut off, perhaps while it was copied: get it anew",
        )
    return Ego2ExoError(f"{path} is no JSON: {error.msg} at {where}", "a benchmark's JSON file", _REMEDY)
