"""Which scores a row of descriptions gets, what the judge sees for each, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..runs.listing import listed
from .items import CONSISTENCY_1, CONSISTENCY_2, MAIN
from .judge_asking import Verdict
from .judge_prompts import ASPECTS, CONSISTENCY, shortened
from .outcomes import FAILED, Described


def of_clips(row: Described) -> bool:
    """Whether its replies are about clips, to be merged before they are judged."""
    return row.state != FAILED and bool(row.items) and all(item.part.isdecimal() for item in row.items)


def materials(row: Described, most: int) -> dict[str, dict[str, str]]:
    """Aspect -> what the judge sees for it, by name; none of a row that failed.

    Args:
        row: its clips merged.
        most: characters of a reply.
    """
    if row.state == FAILED or not row.items:
        return {}
    if of_clips(row):
        return _of_main(row.items[0].question, row.items[0].answer, row.summary, most)
    parts = {item.part: (item, reply.strip()) for item, reply in zip(row.items, row.replies, strict=True)}
    found: dict[str, dict[str, str]] = {}
    if MAIN in parts or "" in parts:
        item, reply = parts.get(MAIN) or parts[""]
        found |= _of_main(item.question, item.answer, reply, most)
    if CONSISTENCY_1 in parts and CONSISTENCY_2 in parts:
        (first, reply_1), (second, reply_2) = parts[CONSISTENCY_1], parts[CONSISTENCY_2]
        found[CONSISTENCY] = {
            **{"QUESTION 1": first.question, "QUESTION 2": second.question, "REFERENCE": first.answer},
            **{"REPLY 1": shortened(reply_1, most), "REPLY 2": shortened(reply_2, most)},
        }
    return found


def marked(row: Described, verdicts: Mapping[str, Verdict]) -> Described:
    """The row with its scores; the reasons of missing ones are its error.

    Args:
        row: not judged yet.
        verdicts: aspect -> what came of it; none: the row stays as it is.
    """
    if not verdicts:
        return row
    # A reason that several share is told once.
    faults: dict[str, list[str]] = {}
    for aspect, verdict in verdicts.items():
        if verdict.error:
            faults.setdefault(verdict.error, []).append(aspect)
    error = listed([f"{', '.join(aspects)}: {reason}" for reason, aspects in faults.items()])
    marks = {aspect: verdict.value for aspect, verdict in verdicts.items()}
    return replace(row, marks=marks, state="unjudged" if faults else "judged", error=error)


def _of_main(question: str, reference: str, reply: str, most: int) -> dict[str, dict[str, str]]:
    material = {"QUESTION": question, "REFERENCE": reference, "REPLY": shortened(reply, most)}
    return dict.fromkeys(ASPECTS, material)
