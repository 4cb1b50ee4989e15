"""JSON of files that nobody has looked at: bounded in size and depth, each key once, each number finite."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError

# Depth of the deepest file of any data set that was met: 7. What goes on with a value calls itself once a level.
MAX_DEPTH = 64
# Longest line of a file of one object a line: a record of megabytes is no answer and no pair.
MAX_LINE = 16 * 2**20
_MAX_DIGITS = 40
DEFAULT_MB = 512
_MAX_MB: ContextVar[int] = ContextVar("ego2exo_max_json_mb", default=DEFAULT_MB)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def allow_mb(megabytes: int, flag: str = "--max-json-mb") -> None:
    """Say how large a file may be that is read as a whole, for the rest of this context.

    Args:
        megabytes: of 2^20 bytes.
        flag: what the user calls it.

    Raises:
        Ego2ExoError: it is below 1.
    """
    if megabytes < 1:
        raise Ego2ExoError(f"{flag} {megabytes}", "1 or more", f"leave it out for {DEFAULT_MB}")
    _MAX_MB.set(megabytes)


def max_mb() -> int:
    """Largest file that is read as a whole, in units of 2^20 bytes."""
    return _MAX_MB.get()


@contextmanager
def _told(path: str | Path, what: str) -> Iterator[None]:
    """Inside the block, a file that cannot be read is refused by name."""
    try:
        yield
    except Ego2ExoError:
        raise
    except UnicodeDecodeError as error:
        raise not_utf8(path, what, error) from error
    except OSError as error:
        raise _unreadable(path, what, error.strerror or str(error)) from error
    except ValueError as error:  # a path that no system takes
        raise _unreadable(path, what, str(error)) from error


def read_text(path: str | Path, what: str, mark: bool = True) -> str:
    """The text of a UTF-8 file that is not larger than `--max-json-mb` allows.

    Args:
        path: of the file.
        what: it should be, for messages.
        mark: whether it may begin with a byte order mark, which is left out.

    Raises:
        Ego2ExoError: it is not there, is no file, is too large, may not be read, or is not UTF-8.
    """
    with _told(path, what):
        _require_size(path, what)
        return Path(path).read_text(encoding="utf-8-sig" if mark else "utf-8")


def read_lines_of(path: str | Path, what: str, max_line: int = MAX_LINE) -> Iterator[bytes]:
    """The lines of a file without their ends, one in memory at a time; the last one lacks its end where it is torn.

    Args:
        path: of the file.
        what: it should be, for messages.
        max_line: bytes of the longest line.

    Yields:
        Each line with its `\\n`, so that a torn last line can be told.

    Raises:
        Ego2ExoError: it cannot be read, or a line is longer.
    """
    with _told(path, what):
        # A pipe or a device would be waited for; a folder says so by itself.
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise _unreadable(path, what, "it is no plain file")
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(max_line + 1):
                number += 1
                if len(line) > max_line:
                    raise Ego2ExoError(
                        f"{path}: line {number} has more than {max_line} bytes", what, "check that this is the file"
                    )
                yield line


def parse_json(text: str, max_depth: int = MAX_DEPTH, checked: bool = False, constants: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: to parse.
        max_depth: deepest nesting of lists and objects.
        checked: the caller looks at each text and number: half a surrogate pair and numbers like 1e999 may pass.
        constants: NaN and infinities may pass.

    Raises:
        ValueError: it is no JSON (then json's own error), nested deeper, holds NaN or an infinity, a number of more
            than 40 digits, a key twice in one object, or half of a surrogate pair.
    """
    _require_depth(text, max_depth)
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_int=_int,
            parse_float=None if constants or checked else _float,
            parse_constant=None if constants else _refuse_constant,
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not checked and _SURROGATE.search(text):
        _require_unicode(value)
    return value


def json_reason(error: Exception) -> str:
    """Why :func:`parse_json` failed, in few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)


def unique_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads(object_pairs_hook=...)`: a dictionary; ValueError where a key stands twice."""
    values = dict(items)
    if len(values) < len(items):
        keys = [key for key, _ in items]
        twice = [ascii(key) for key in values if keys.count(key) > 1]
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise ValueError(f"key(s) {', '.join(twice[:3])}{more} stand twice in one object")
    return values


def not_utf8(path: str | Path, what: str, error: UnicodeDecodeError) -> Ego2ExoError:
    """The refusal of a file in another encoding."""
    return Ego2ExoError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", what, "save it as UTF-8")


def _unreadable(path: str | Path, what: str, reason: str) -> Ego2ExoError:
    return Ego2ExoError(f"{ascii(os.fspath(path))[1:-1]} cannot be read: {reason}", what, "check the path")


def _require_size(path: str | Path, what: str) -> None:
    size, allowed = os.stat(path).st_size, _MAX_MB.get()
    if size > allowed * 2**20:
        raise Ego2ExoError(
            f"{path} has {size} bytes",
            f"{what} of at most {allowed} MiB",
            "check that this is the file; a larger one is read with --max-json-mb (in training --ego2exo_max_json_mb)",
        )


def _require_depth(text: str, allowed: int) -> None:
    """json calls itself once a level, and so does all that later copies, writes or compares the value."""
    if text.count("[") + text.count("{") <= allowed:
        return
    # All but brackets and quotes goes, then strings, then innermost pairs, level by level: a few passes in C.
    bare = re.sub(r"\\.", "", text, flags=re.DOTALL) if "\\" in text else text
    bare = re.sub(r'"[^"]*"', "", bare)
    bare = re.sub(r"[^\[\]{}]+", "", bare)
    for _ in range(allowed):
        bare, removed = re.subn(r"\[\]|\{\}", "", bare)
        if not removed:
            break
    # What is balanced and not deeper is gone; the rest is deeper, or no JSON, which json says better.
    opened = len(bare) - len(bare.lstrip("[{"))
    if "[]" in bare or "{}" in bare or opened > allowed:
        raise ValueError(f"nested too deep: more than {allowed} lists and objects in each other")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, and numbers are finite")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:20]}, which no float holds")
    return value


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits, and {_MAX_DIGITS} are allowed")
    return int(text)


def _require_unicode(value: Any) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str) and any("\ud800" <= letter <= "\udfff" for letter in one):
            raise ValueError(f"it holds {ascii(one)[:40]}, which is no valid Unicode")
