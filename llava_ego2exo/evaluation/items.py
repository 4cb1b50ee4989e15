"""One question about one clip: what every benchmark is read into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CHOICE, DESCRIPTION = "choice", "description"
# What a description item asks for; an item of multiple choice has the part "".
MAIN, CONSISTENCY_1, CONSISTENCY_2 = "main", "consistency1", "consistency2"


@dataclass(frozen=True)
class Item:
    """One question.

    Args:
        id: unique among all items of a run, readable, without white space: "exo:t1_0003_exo2:12".
        benchmark: its name, see `benchmarks.BENCHMARKS`.
        category: what its accuracy is counted under.
        view: "exo", "ego", or "" where a benchmark has one camera only.
        video: as the data names it.
        question: as the data asks it, blanks at its ends removed.
        kind: "choice" or "description".
        choices: key -> option text, in the data's order; empty for a description.
        answer: the right key; of a description the reference text.
        start_s: where the clip begins in its video, in seconds; None: at the start.
        end_s: where it ends; None: at the end.
        row: what rows of the data it belongs to: items that are scored together share it.
        part: of a description, what is asked: "main", "consistency1", "consistency2", or the number of a clip that is
            described by itself ("0", "1", ...) before all of a row are merged.
        source: file and place of its row: "Smarthome-AR.json, row 12".
        path: of the video file, once it is found; "" before.
    """

    id: str
    benchmark: str
    category: str
    view: str
    video: str
    question: str
    kind: str = CHOICE
    choices: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    start_s: float | None = None
    end_s: float | None = None
    row: str = ""
    part: str = ""
    source: str = ""
    path: str = ""
