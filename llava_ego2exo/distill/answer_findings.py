"""What is wrong with the teacher's answers about each pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .answers import Answer
from .checking import Finding
from .pair import Pair
from .quality import CUT, EMPTY, REPEATS

_WORDS = {EMPTY: "is empty", CUT: "was cut by the length limit", REPEATS: "repeats itself"}


def answer_findings(pairs: Sequence[Pair], answers: Sequence[Answer]) -> Iterator[Finding]:
    """A finding for each answer that nobody should train on, and for each that is missing.

    Args:
        pairs: to look at.
        answers: of any teacher; a split without any answer was not asked about, and misses none.
    """
    by_segment: dict[str, list[Answer]] = {}
    for answer in answers:
        by_segment.setdefault(answer.segment, []).append(answer)
    kinds = list(dict.fromkeys(answer.kind for answer in answers))
    asked = {pair.split for pair in pairs if pair.segment in by_segment}
    for pair in pairs:
        own = by_segment.get(pair.segment, [])
        for answer in own:
            flags = list(answer.flags) or ([] if answer.answer.strip() else [EMPTY])
            faults = [_WORDS.get(flag, flag) for flag in flags]
            if faults:
                yield Finding("answer", pair.segment, "", f"the {answer.kind} answer {' and '.join(faults)}")
        there = {answer.kind for answer in own}
        missing = [kind for kind in kinds if kind not in there] if pair.split in asked else []
        if missing:
            yield Finding("answer", pair.segment, "", f"has no answer of the kind(s) {', '.join(missing)}")
