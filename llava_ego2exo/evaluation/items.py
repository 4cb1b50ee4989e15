"""Questions of a benchmark, what models replied to them, on disk too, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..common.record_store import RecordStore

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

    @property
    def right_keys(self) -> set[str]:
        """The right key, and those of options with the same text: no one can prefer one of these."""
        return {key for key, text in self.choices.items() if plain(text) == plain(self.choices.get(self.answer, ""))}

    @property
    def has_twins(self) -> bool:
        """Whether two of its options have the same text."""
        return len(set(map(plain, self.choices.values()))) < len(self.choices)


def plain(text: str) -> str:
    """A text as it is compared: without differences of case and blanks."""
    return " ".join(text.split()).casefold()


PARSED, UNPARSED, FAILED = "parsed", "unparsed", "failed"
MISLABELLED = "mislabelled"
GENERATE, LIKELIHOOD = "generate", "likelihood"
MODES = (GENERATE, LIKELIHOOD)


@dataclass(frozen=True)
class Outcome:
    """What came of a multiple-choice item."""

    item: Item
    model: str
    mode: str
    state: str  # "parsed" (an option was chosen), "unparsed" (the reply names none), or "failed" (no reply)
    picked: str | None = None  # key of the option chosen; None unless parsed
    reply: str = ""  # as the model gave it; "" in mode "likelihood" and where it failed
    scores: Mapping[str, float] = field(default_factory=dict)  # key -> log-probability; empty in mode "generate"
    # "empty", "cut" (the reply reached the length limit), "mislabelled" (its text stood behind another option's key)
    flags: tuple[str, ...] = ()
    error: str = ""  # why it failed
    judged: bool = False  # the judge read the reply, because the parser could not

    @property
    def right(self) -> bool:
        """Whether it counts as right; what is unparsed or failed is wrong."""
        return self.state == PARSED and self.picked in self.item.right_keys


@dataclass(frozen=True)
class Described:
    """What came of one row of a description benchmark: replies of its items, and scores of the judge."""

    items: tuple[Item, ...]
    model: str
    replies: tuple[str, ...]  # of each item, as the model gave it; "" where it failed
    summary: str = ""  # what was judged, where replies were merged first
    # "correctness", "detail", "context", "temporal", "consistency" -> 0 to 5; None: missing.
    scores: Mapping[str, float | None] = field(default_factory=dict)
    # "judged" (all scores there), "unjudged" (some missing), "failed" (no reply: 0 in the mean, and reported).
    state: str = "unjudged"
    error: str = ""  # why it failed, or why scores are missing


ORIGIN = "llava-ego2exo eval"
_TYPES: dict[str, tuple[type, ...]] = {"scores": (dict,), "flags": (list,), "tokens": (int,)}


@dataclass(frozen=True)
class Reply:
    """What one model replied to one question, as stored."""

    id: str  # of the item
    key: str  # of the content: the question, its clip, the model and how it is asked
    reply: str = ""  # special tokens and blanks at its ends removed; "" in mode "likelihood"
    scores: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    tokens: int = 0  # generated, the end token included
    error: str = ""  # why there is none


def reply_store(folder: str | Path) -> RecordStore[Reply]:
    """The replies of one model in one mode."""
    return RecordStore(Path(folder), "replies", Reply, _TYPES, ORIGIN)


def read_replies(folder: str | Path) -> dict[str, Reply]:
    """Key -> reply of one model in one mode, also of a run that was stopped; the last counts, and before failures."""
    found: dict[str, Reply] = {}
    for reply in reply_store(folder).read():
        if not reply.error or found.get(reply.key, reply).error:
            found[reply.key] = reply
    return found
