"""The samples that a run has left out, counted over all processes, and kept beside its checkpoints."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ..config import PREFIX
from ..errors import Ego2ExoError
from ..runs.files import write_whole
from ..runs.jsonl import json_line, read_lines
from ..runs.listing import listed
from ..runs.ranks import Ranks
from .bad_samples import DROPPED

FILE = "unreadable.jsonl"


class BadTally:
    """Which samples were left out. A sample counts once, however many epochs it is met in.

    Args:
        most: how many may be.
        folder: the run's output folder.
        ranks: the processes.
    """

    def __init__(self, most: int, folder: str, ranks: Ranks) -> None:
        self.most, self.file, self.ranks = most, Path(folder, FILE), ranks
        self.known: dict[int, dict[str, Any]] = {}
        self._waiting: list[dict[str, Any]] = []

    def start(self, step: int) -> None:
        """A run begins, or goes on behind `step`: what was left out up to there still counts. For all processes."""
        if self.most:
            kept = self.ranks.first(lambda: self._read(step))
            self.known = {one["index"]: one for one in kept}

    def take(self, inputs: dict[str, Any]) -> int:
        """Take what a small batch tells out of it; returns how many of its rows were left out."""
        found = inputs.pop(DROPPED, [])
        self._waiting += found
        return len(found)

    def settle(self, rows: float, step: int) -> list[str]:
        """At the end of a global batch, on all processes.

        Args:
            rows: how many of its rows were left out, over all processes.
            step: of the optimizer, counted from 1, that it belongs to.

        Returns:
            A line for each sample that is new.

        Raises:
            Ego2ExoError: more samples than allowed, on every process.
        """
        if not rows:
            return []
        waiting, self._waiting = self._waiting, []
        new: list[dict[str, Any]] = []
        for one in (one for own in self.ranks.gather(waiting) for one in own):
            if one["index"] not in self.known:
                self.known[one["index"]] = {**one, "step": step}
                new.append(one)
        if new and self.ranks.rank == 0:
            self._write()
        if len(self.known) > self.most:
            raise Ego2ExoError(
                f"{len(self.known)} samples cannot be read: {listed([_named(one) for one in self.known.values()], 10)}",
                f"at most {self.most} (--{PREFIX}max_bad)",
                f"mend these files or remove the samples from the training JSON ({self.file} has all), or raise N",
            )
        return [f"left out, {len(self.known)} of at most {self.most}: {_named(one)}" for one in new]

    def told(self) -> list[str]:
        """What was left out in the whole run, in words; nothing where nothing may be."""
        if not self.most:
            return []
        names = f": {listed([_named(one) for one in self.known.values()], 10)}; all are in {self.file}"
        text = f"{len(self.known)} sample(s) were left out because they cannot be read (--{PREFIX}max_bad {self.most})"
        return [text + (names if self.known else "")]

    def _read(self, step: int) -> list[dict[str, Any]]:
        """Those up to a step; the file then holds no others."""
        found = []
        if step and self.file.is_file():
            found = list(read_lines(self.file, _parsed, torn=True, origin="the training run"))
        kept = [one for one in found if one["step"] <= step]
        if kept:
            write_whole(self.file, "".join(map(json_line, kept)))
        else:
            with contextlib.suppress(FileNotFoundError):
                self.file.unlink()
        return kept

    def _write(self) -> None:
        write_whole(self.file, "".join(map(json_line, self.known.values())))


def _named(one: dict[str, Any]) -> str:
    files = ", ".join(f"{name} {one[name]}" for name in ("image", "video", "ego_video") if name in one)
    return f"sample {one['index']} (id {one['id']!r}): {files}: {one['reason']}"


def _parsed(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("index"), int) or not isinstance(value.get("step"), int):
        raise ValueError("no sample")
    value.setdefault("id", "")
    value.setdefault("reason", "")
    return value
