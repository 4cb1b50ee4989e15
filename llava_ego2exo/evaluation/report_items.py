"""Which questions a report shows, the same ones each time: some right, wrong, unparsed, and answered otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

from .metrics_checks import row_id
from .outcomes import FAILED, Described, Outcome
from .report_cards import DIFFERS, Asker, Card, choice_card, described_card, differing, result_of
from .report_clips import Clip, Strip, strips

MOST = 96  # cards, however many models there are
BUDGET = 3_500_000  # bytes of cards and their frames
Key = TypeVar("Key", bound=Hashable)


def askers_of(outcomes: Iterable[Outcome], described: Iterable[Described]) -> list[Asker]:
    """(model, mode) in order of appearance; mode is "" for descriptions."""
    return list(dict.fromkeys([(one.model, one.mode) for one in outcomes] + [(one.model, "") for one in described]))


def sampled(
    outcomes: Sequence[Outcome], described: Sequence[Described], base: str | None, samples: int
) -> tuple[list[Card], dict[Clip, Strip], int]:
    """Cards, in the order of the data, and the frames of their clips.

    Args:
        outcomes: of multiple-choice items.
        described: rows of descriptions.
        base: the model that others are compared with.
        samples: most questions of each model, mode, view and result.

    Returns:
        Cards; frames of each clip; how many chosen questions were left out to keep the page small.
    """
    askers = askers_of(outcomes, described)
    items = _gathered((one.item.id, one) for one in outcomes)
    rows = _gathered((row_id(one), one) for one in described)
    cards = [choice_card(items[name], askers, base) for name in _chosen(_choice_groups(items, base), samples)]
    cards += [described_card(rows[name], askers, name) for name in _chosen(_row_groups(described), samples)]
    order = {name: place for place, name in enumerate([*items, *rows])}
    kept, frames = _fitting(cards[:MOST])
    return sorted(kept, key=lambda card: order[card.name]), frames, len(cards) - len(kept)


def _gathered(pairs: Iterable[tuple[str, Key]]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for name, one in pairs:
        found.setdefault(name, []).append(one)
    return found


def _choice_groups(items: Mapping[str, Sequence[Outcome]], base: str | None) -> list[list[str]]:
    """Ids of the items of each model, mode, view and result; failures are listed elsewhere."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, outcomes in items.items():
        for one in outcomes:
            if one.state != FAILED:
                found.setdefault((one.model, one.mode, one.item.view, result_of(one)), []).append(name)
        for one in differing(outcomes, base):
            found.setdefault((one.model, one.mode, one.item.view, DIFFERS), []).append(name)
    return list(found.values())


def _row_groups(described: Sequence[Described]) -> list[list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for one in described:
        found.setdefault((one.model, one.items[0].view, one.state), []).append(row_id(one))
    return list(found.values())


def _chosen(groups: Sequence[Sequence[str]], samples: int) -> list[str]:
    """The first of each group, then the second of each, and so on, by hash of the id: chance that repeats."""
    ranked = [sorted(group, key=_hash)[:samples] for group in groups]
    return list(dict.fromkeys(name for rank in zip_longest(*ranked) for name in rank if name is not None))


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()


def _fitting(cards: Sequence[Card]) -> tuple[list[Card], dict[Clip, Strip]]:
    """As many of the first ones as the page has room for; frames are read only for these."""
    kept: list[Card] = []
    found: dict[Clip, Strip] = {}
    used = 0
    for start in range(0, len(cards), 8):
        block = cards[start : start + 8]
        found.update(strips(card.clip for card in block if card.clip not in found))
        for card in block:
            used += card.size + found[card.clip].size
            if used > BUDGET:
                return kept, found
            kept.append(card)
    return kept, found
