"""Checks before anything is counted: no outcome twice, none that contradicts itself, one benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from ..items import FAILED, MODES, PARSED, UNPARSED, Described, Outcome

ALL = "all"
STATES = (PARSED, UNPARSED, FAILED)
DESCRIBED_STATES = ("judged", "unjudged", FAILED)


def require_countable(outcomes: Sequence[Outcome], described: Sequence[Described]) -> None:
    """Refuse outcomes that would be counted wrong.

    Raises:
        Ego2ExoError: naming the first few faults.
    """
    faults = [f"{fault} ({outcome.model}, {outcome.item.id})" for outcome in outcomes for fault in _faults(outcome)]
    faults += [f"{fault} ({one.model}, {row_id(one)})" for one in described for fault in _described_faults(one)]
    asked = [f"{outcome.item.id} of {outcome.model} in mode {outcome.mode}" for outcome in outcomes]
    asked += [f"{row_id(one)} of {one.model}" for one in described if one.items]
    faults += [f"{name} is there twice" for name in repeated(asked)]
    if faults:
        raise Ego2ExoError(
            f"{len(faults)} fault(s) in what is to be counted: {shorten_list(faults)}",
            "one outcome for each item, model and mode, with an answer and a choice among the item's options",
            "correct the data, or run the evaluation in an empty folder",
        )


def only_benchmark(outcomes: Sequence[Outcome], described: Sequence[Described]) -> str:
    """The benchmark's name; "" where there is nothing.

    Raises:
        Ego2ExoError: there are several.
    """
    items = [outcome.item for outcome in outcomes] + [item for one in described for item in one.items]
    names = sorted({item.benchmark for item in items})
    if len(names) > 1:
        raise Ego2ExoError(f"outcomes of {', '.join(names)}", "of one benchmark", "make a report for each")
    return "".join(names)


def base_model(models: Sequence[str], compare_to: str | None) -> str | None:
    """The model that others are compared with.

    Raises:
        Ego2ExoError: `compare_to` is none of the models.
    """
    if compare_to is not None and models and compare_to not in models:
        raise Ego2ExoError(f"comparison with {compare_to}", ", ".join(models), "name one of these models")
    return compare_to or next(iter(models), None)


def row_id(one: Described) -> str:
    """What names a described row."""
    return one.items[0].row or one.items[0].id if one.items else "a row without items"


def _faults(outcome: Outcome) -> Iterator[str]:
    choices = outcome.item.choices
    if outcome.mode not in MODES:
        yield f"mode {outcome.mode}"
    if outcome.state not in STATES:
        yield f"state {outcome.state}"
    if outcome.item.category == ALL:
        yield f"category {ALL}, which names the sum of all"
    if outcome.item.answer not in choices:
        yield f"answer {outcome.item.answer!r} is no option"
    if (outcome.state == PARSED) != (outcome.picked in choices):
        yield f"state {outcome.state} with choice {outcome.picked!r}"


def _described_faults(one: Described) -> Iterator[str]:
    if not one.items or len(one.items) != len(one.replies):
        yield f"{len(one.items)} items with {len(one.replies)} replies"
    if one.state not in DESCRIBED_STATES:
        yield f"state {one.state}"
    odd = [f"{aspect} {mark}" for aspect, mark in one.marks.items() if mark is not None and not 0 <= mark <= 5]
    if odd:
        yield f"marks outside 0 to 5: {', '.join(odd)}"
    missing = not one.marks or None in one.marks.values()
    if one.state == "judged" and missing:
        yield "judged, but marks are missing"
