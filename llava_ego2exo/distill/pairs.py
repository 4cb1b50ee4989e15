"""Pairs of segments and the file that lists them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..common.files import write_whole
from ..errors import Ego2ExoError
from ..runs.listing import listed, repeated
from .pair import Pair, pair_from_record
from .pair_lines import scan_pairs
from .record import EXAMPLE, FIELDS

__all__ = ["Pair", "pair_from_record", "read_pairs", "require_files", "write_pairs"]

_CLEAN = "mend the paths; `llava-ego2exo pairs check --write-clean` writes a pairs file without what is missing"


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a `pairs.jsonl`, in its order. Whether files are there is not looked at; `require_files` does that.

    Args:
        path: of the file.

    Raises:
        Ego2ExoError: the file is missing, empty or faulty; names the first faulty lines and counts the rest.
    """
    found = scan_pairs(path)
    faults = [f"line {number} {fault}" for number, wrong in found.faults.items() for fault in wrong]
    faults += [f"segment {name!r} stands in lines {', '.join(map(str, at))}" for name, at in found.repeated().items()]
    if faults:
        raise Ego2ExoError(
            f"{path}: {len(faults)} fault(s): {listed(faults)}",
            f"one such object a line: {EXAMPLE}",
            "mend these lines",
        )
    if not found.pairs:
        raise Ego2ExoError(f"{path} holds no pair", "one pair a line", "make it with `llava-ego2exo pairs build`")
    return found.pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> Path:
    """Write a `pairs.jsonl`: beside its place first, then renamed, so that a half-written file never stands there.

    Raises:
        Ego2ExoError: there is no pair, a segment's name stands twice, or the file cannot be written.
    """
    pairs, path = list(pairs), Path(os.path.abspath(path))
    twice = repeated(pair.segment for pair in pairs)
    if twice or not pairs:
        given = f"{path}: segment(s) named twice: {listed(twice)}" if twice else f"{path}: no pair to write"
        raise Ego2ExoError(given, "one or more pairs, each segment once", "give each segment a name of its own")
    return write_whole(path, "".join(f"{_line(pair, path.parent)}\n" for pair in pairs))


def require_files(pairs: Sequence[Pair], remedy: str = _CLEAN) -> None:
    """Refuse pairs whose videos are not there.

    Args:
        pairs: what to look at.
        remedy: what the error tells the user to do.

    Raises:
        Ego2ExoError: names the first missing files and counts the rest.
    """
    faults = [
        f"{pair.segment} {view}: {path}"
        for pair in pairs
        for view, path in pair.files.items()
        if not os.path.isfile(path)
    ]
    if faults:
        raise Ego2ExoError(
            f"{len(faults)} video(s) of the pairs are not there: {listed(faults)}",
            "existing files",
            remedy,
        )


def _line(pair: Pair, folder: Path) -> str:
    values = asdict(pair)
    values["ego"] = _relative(pair.ego, folder)
    values["exo"] = {view: _relative(path, folder) for view, path in pair.exo.items()}
    return json.dumps({name: values[name] for name in FIELDS}, ensure_ascii=False)


def _relative(path: str, folder: Path) -> str:
    file = Path(path)
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()
