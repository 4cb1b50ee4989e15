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


PARSED, UNPARSED, FAILED = "parsed", "unparsed", "failed"
GENERATE, LIKELIHOOD = "generate", "likelihood"
MODES = (GENERATE, LIKELIHOOD)


@dataclass(frozen=True)
class Outcome:
    """Of a multiple-choice item.

    Args:
        item: the question.
        model: name of the model in this run.
        mode: "generate" or "likelihood".
        state: "parsed" (an option was chosen), "unparsed" (the reply names none), or "failed" (no reply).
        picked: key of the option chosen; None unless parsed.
        reply: as the model gave it; "" in mode "likelihood" and where it failed.
        scores: option's key -> log-probability of its letter; empty in mode "generate".
        flags: what is odd about the reply: "empty", "cut" (it reached the length limit).
        error: why it failed; "" otherwise.
        judged: the judge read the reply, because the parser could not.
    """

    item: Item
    model: str
    mode: str
    state: str
    picked: str | None = None
    reply: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    error: str = ""
    judged: bool = False

    @property
    def right(self) -> bool:
        """Whether it counts as right; what is unparsed or failed is wrong."""
        return self.state == PARSED and self.picked == self.item.answer


@dataclass(frozen=True)
class Described:
    """Of one row of a description benchmark.

    Args:
        items: the row's questions.
        model: name of the model in this run.
        replies: of each item, as the model gave it; "" where it failed.
        summary: what was judged, where replies were merged first; "" otherwise.
        marks: aspect ("correctness", "detail", "context", "temporal", "consistency") -> 0 to 5; None: missing.
        state: "judged" (all marks there), "unjudged" (some or all missing), "failed" (a reply is missing; it counts
            as 0 in the mean, and is reported).
        error: why it failed, or why marks are missing.
    """

    items: tuple[Item, ...]
    model: str
    replies: tuple[str, ...]
    summary: str = ""
    marks: Mapping[str, float | None] = field(default_factory=dict)
    state: str = "unjudged"
    error: str = ""


ORIGIN = "llava-ego2exo eval"
_TYPES: dict[str, tuple[type, ...]] = {"scores": (dict,), "flags": (list,), "tokens": (int,)}


@dataclass(frozen=True)
class Reply:
    """What one model replied to one question.

    Args:
        id: of the item.
        key: identity by content: of the question, its clip, the model and how it is asked.
        reply: as the model gave it, special tokens and blanks at its ends removed; "" in mode "likelihood".
        scores: option's key -> log-probability; empty in mode "generate".
        flags: what is odd about it: "empty", "cut" (it reached the length limit).
        tokens: how many were generated, the end token included.
        error: why there is none; "" where there is one.
    """

    id: str
    key: str
    reply: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    tokens: int = 0
    error: str = ""


def reply_store(folder: str | Path) -> RecordStore[Reply]:
    """The replies of one model in one mode."""
    return RecordStore(Path(folder), "replies", Reply, _TYPES, ORIGIN)


def read_replies(folder: str | Path) -> dict[str, Reply]:
    """Key -> reply of one model in one mode, also of a run that was stopped; of a key's records the last counts.

    A failure never takes the place of a reply.

    Raises:
        Ego2ExoError: a line is damaged. The last line of an unfinished file may be torn.
    """
    found: dict[str, Reply] = {}
    for reply in reply_store(folder).read():
        if not reply.error or found.get(reply.key, reply).error:
            found[reply.key] = reply
    return found
