"""A pair: one segment seen by the ego camera and by one or more exo cameras."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError
from ..runs.listing import listed
from .record import EXAMPLE, record_faults


@dataclass(frozen=True)
class Pair:
    """One segment: its ego clip (what the teacher sees) and its exo views (what the student sees).

    Args:
        segment: its name, unique in a file.
        ego: path of the ego video, made absolute.
        exo: view -> path of that exo video, made absolute; at least one.
        start_s: where the segment begins in the ego video, in seconds; None: at its start.
        end_s: where it ends, in seconds; None: at the video's end.
        offset_s: seconds to add to ego time for exo time.
        split: "train", "val" or "test".
        take: the recording that the segment belongs to; empty: the segment is a take of its own.

    Raises:
        Ego2ExoError: a value is not allowed; all of them are named.
    """

    segment: str
    ego: str
    exo: dict[str, str]
    start_s: float | None = None
    end_s: float | None = None
    offset_s: float = 0.0
    split: str = "train"
    take: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.ego, os.PathLike):
            object.__setattr__(self, "ego", os.fspath(self.ego))
        if isinstance(self.exo, dict):
            paths = {v: os.fspath(p) if isinstance(p, os.PathLike) else p for v, p in self.exo.items()}
            object.__setattr__(self, "exo", paths)
        faults = record_faults(asdict(self))
        if faults:
            raise Ego2ExoError(f"pair {ascii(self.segment)[:60]}: {listed(faults)}", EXAMPLE, "mend these values")
        object.__setattr__(self, "ego", os.path.abspath(self.ego))
        object.__setattr__(self, "exo", {view: os.path.abspath(path) for view, path in self.exo.items()})
        object.__setattr__(self, "take", self.take or self.segment)

    @property
    def files(self) -> dict[str, str]:
        """View -> path, "ego" first."""
        return {"ego": self.ego, **self.exo}


def pair_from_record(record: dict[str, Any], folder: str | Path) -> Pair:
    """A `Pair` from one record whose relative paths count from `folder`.

    Raises:
        Ego2ExoError: the record is not allowed.
    """
    faults = record_faults(record)
    if faults:
        raise Ego2ExoError(f"record {listed(faults)}", EXAMPLE, "mend these values")
    values = {key: value for key, value in record.items() if value is not None}
    values["ego"] = os.path.join(folder, record["ego"])
    values["exo"] = {view: os.path.join(folder, path) for view, path in record["exo"].items()}
    return Pair(**values)
