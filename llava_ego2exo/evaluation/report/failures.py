"""What failed, a line for each video and cause however many questions it took with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..items import FAILED, Described, Outcome

SHOWN = 50
NO_REPLY, NO_MARKS = "no reply", "marks missing"


@dataclass(frozen=True)
class Failure:
    """One cause that kept outcomes of one video from a reply or a mark."""

    what: str  # "no reply" or "marks missing"
    video: str
    models: tuple[str, ...]
    count: int  # of outcomes
    error: str
    example: str  # id of the first item


def failures(outcomes: Iterable[Outcome], described: Iterable[Described]) -> list[Failure]:
    """All of them, in order of first appearance; missing marks only where a judge was asked and says why."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for what, video, error, model, item in _failed(outcomes, described):
        found.setdefault((what, video, error), []).append((model, item))
    return [
        Failure(what, video, tuple(dict.fromkeys(model for model, _ in met)), len(met), error, met[0][1])
        for (what, video, error), met in found.items()
    ]


def failure_counts(found: Sequence[Failure]) -> str:
    """How many outcomes failed, and from how many causes; "" for none."""
    if not found:
        return ""
    parts = []
    for what, many in ((NO_REPLY, "without a reply"), (NO_MARKS, "with marks missing")):
        count = sum(one.count for one in found if one.what == what)
        parts += [f"{count} {many}"] if count else []
    more = f"; the first {SHOWN} are listed" if len(found) > SHOWN else ""
    return f"{' and '.join(parts)}, from {len(found)} {'cause' if len(found) == 1 else 'causes'}{more}"


def _failed(outcomes: Iterable[Outcome], described: Iterable[Described]) -> Iterator[tuple[str, str, str, str, str]]:
    """(what, video, error, model, id of the item)."""
    for one in outcomes:
        if one.state == FAILED:
            yield NO_REPLY, one.item.video, one.error or "no cause is known", one.model, one.item.id
    for row in described:
        first = row.items[0]
        if row.state == FAILED:
            yield NO_REPLY, first.video, row.error or "no cause is known", row.model, first.id
        elif row.state == "unjudged" and row.error:
            yield NO_MARKS, first.video, row.error, row.model, first.id
