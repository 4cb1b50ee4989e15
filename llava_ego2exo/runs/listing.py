"""Many faults in one message: the first few and a count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def listed(faults: Sequence[str], shown: int = 5) -> str:
    """The first `shown` of them, and how many more there are."""
    more = f"; and {len(faults) - shown} more" if len(faults) > shown else ""
    return "; ".join(faults[:shown]) + more


def repeated(values: Iterable[str]) -> list[str]:
    """The values that occur more than once, each once, in order of first appearance."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return [value for value, count in counts.items() if count > 1]
