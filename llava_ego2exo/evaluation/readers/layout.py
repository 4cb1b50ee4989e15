"""What a reader is, and which one a file fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import Ego2ExoError
from .fields import Fields, kind_of


@dataclass(frozen=True)
class Question:
    """What a row asks, before it belongs to a benchmark and a view.

    Args:
        video: as the data names it.
        question: blanks at its ends removed; empty where the layout has none.
        choices: key -> option text; empty for a description.
        answer: the right key, or the reference text.
        category: finer than the benchmark; empty where the data has none.
        start_s: where the clip begins, in seconds; None: at the video's start.
        end_s: where it ends, in seconds; None: at the video's end.
        part: of a description: what is asked.
        precut: name of the clip as a file of its own, where the data tells it; "" elsewhere.
    """

    video: str
    question: str
    choices: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    category: str = ""
    start_s: float | None = None
    end_s: float | None = None
    part: str = ""
    precut: str = ""


def labelled(value: Any) -> list[tuple[str, Any]]:
    """(name for messages, row) of a list or an object of rows."""
    if isinstance(value, dict):
        return [(f"row {ascii(key)}", row) for key, row in value.items()]
    return [(f"row {index}", row) for index, row in enumerate(value)]


@dataclass(frozen=True)
class Layout:
    """One way in which benchmark files are laid out.

    Args:
        name: shown to the user.
        keys: that a row of this layout has, and by which it is recognised.
        read: row -> its questions; what is wrong with the row goes to `Fields.faults`.
        rows: list or object -> (name for messages, row).
        shape: of the file, in words.
    """

    name: str
    keys: tuple[str, ...]
    read: Callable[[Fields], Sequence[Question]]
    rows: Callable[[Any], list[tuple[str, Any]]] = labelled
    shape: str = "rows with the keys"

    def fits(self, row: Any) -> bool:
        """Whether a row has all keys."""
        return isinstance(row, dict) and all(key in row for key in self.keys)

    def __str__(self) -> str:
        return f"{self.name} ({self.shape} {', '.join(self.keys)})"


def recognise(path: Path, value: Any, layouts: Sequence[Layout]) -> Layout:
    """The layout that most rows of a file have; the first of `layouts` where several are level.

    Args:
        path: of the file, for messages.
        value: what it holds.
        layouts: those allowed.

    Raises:
        Ego2ExoError: it holds no rows, or none fits.
    """
    if not isinstance(value, (list, dict)) or not value:
        given = "holds no row" if isinstance(value, (list, dict)) else f"holds {kind_of(value)}"
        raise Ego2ExoError(f"{path} {given}", "a list or an object of rows", "check that this is the benchmark's JSON")
    counts = [sum(layout.fits(row) for _, row in layout.rows(value)) for layout in layouts]
    best = max(range(len(layouts)), key=counts.__getitem__)
    if not counts[best]:
        allowed = "; ".join(map(str, layouts))
        raise Ego2ExoError(
            f"{path} fits no layout of this benchmark: it holds {_found(value)}",
            allowed,
            "check --benchmark and --data",
        )
    return layouts[best]


def _found(value: Any) -> str:
    name, row = labelled(value)[0]
    rows = f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}, and {name[:60]} "
    if isinstance(row, dict):
        return rows + f"has the keys {', '.join(ascii(key)[1:-1][:40] for key in list(row)[:20]) or '(none)'}"
    return rows + f"is {kind_of(row)}"
