"""From stored replies to outcomes: reading costs nothing, so it is done anew each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from .items import CHOICE, Item
from .outcomes import FAILED, LIKELIHOOD, PARSED, UNPARSED, Described, Outcome
from .parsers import PARSERS
from .replies import Reply

NOT_THERE = "the video is not there, or may not be read"
NOT_ASKED = "not asked yet: the run was stopped; the same command goes on"


def outcomes_of(
    items: Sequence[Item], replies: Mapping[str, Reply], model: str, mode: str, parser: str
) -> list[Outcome]:  # fmt: skip
    """One outcome for each multiple-choice item.

    Args:
        items: all of the run.
        replies: item's id -> reply.
        model: name of the model.
        mode: in which it was asked.
        parser: name of what reads its replies.
    """
    return [_outcome(item, replies.get(item.id), model, mode, parser) for item in items if item.kind == CHOICE]


def _outcome(item: Item, reply: Reply | None, model: str, mode: str, parser: str) -> Outcome:
    if reply is None or reply.error:
        return Outcome(item, model, mode, FAILED, error=reply.error if reply else _no_reply(item))
    if mode == LIKELIHOOD:
        if reply.scores.keys() != item.choices.keys():
            return Outcome(item, model, mode, FAILED, error="the stored scores are not those of its options")
        # The first of equal ones, as `max` has it.
        picked = max(reply.scores, key=reply.scores.__getitem__)
        return Outcome(item, model, mode, PARSED, picked, scores=reply.scores)
    picked = PARSERS[parser](reply.reply, item.choices)
    return Outcome(item, model, mode, PARSED if picked else UNPARSED, picked, reply.reply, flags=reply.flags)


def _no_reply(item: Item) -> str:
    return NOT_ASKED if item.path else NOT_THERE


def described_of(items: Sequence[Item], replies: Mapping[str, Reply], model: str) -> list[Described]:
    """One for each row of a description benchmark, not judged yet.

    Args:
        items: all of the run; those of a row stand together.
        replies: item's id -> reply.
        model: name of the model.
    """
    rows = []
    for _, group in groupby((item for item in items if item.kind != CHOICE), key=lambda item: item.row):
        own = tuple(group)
        found = [replies.get(item.id) for item in own]
        errors = [
            reply.error if reply else _no_reply(item)
            for item, reply in zip(own, found, strict=True)
            if reply is None or reply.error
        ]
        texts = tuple(reply.reply if reply else "" for reply in found)
        state = "failed" if errors else "unjudged"
        rows.append(Described(own, model, texts, state=state, error=errors[0] if errors else "no judge was given"))
    return rows
