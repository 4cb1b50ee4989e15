"""What models replied, on disk: one JSON object a line, appended during a run, put in order at its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from ..common.files import write_atomic
from ..common.jsonl import AppendFile, json_line, read_lines, record_of
from .items import CHOICE, FAILED, LIKELIHOOD, PARSED, UNPARSED, Described, Item, Outcome
from .replies.parser import PARSERS

FINISHED = "replies.jsonl"
_PARTS = "replies.part-*.jsonl"
ORIGIN = "llava-ego2exo eval"


@dataclass(frozen=True)
class Reply:
    """What one model gave to one question.

    Args:
        id: of the item.
        key: identity by content, see :func:`reply_key`.
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


def reply_key(content: Sequence[Any]) -> str:
    """32 hex digits that are the same for the same content, wherever the files lie.

    Args:
        content: of JSON values: all that a reply hangs on.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_replies(folder: str | Path) -> dict[str, Reply]:
    """Key -> reply of one model in one mode, also of a run that was stopped; of a key's records the last counts.

    A failure never takes the place of a reply.

    Raises:
        Ego2ExoError: a line is damaged. The last line of an unfinished file may be torn.
    """
    folder, found = Path(folder), {}
    for path in (folder / FINISHED, *sorted(folder.glob(_PARTS))):
        if path.is_file():
            for reply in read_lines(path, _reply, torn=path.name != FINISHED, origin=ORIGIN):
                if not reply.error or found.get(reply.key, reply).error:
                    found[reply.key] = reply
    return found


def finish_replies(folder: str | Path, replies: Iterable[Reply]) -> None:
    """Write the finished file in the order given, and remove those of the unfinished run."""
    folder = Path(folder)
    write_atomic(folder / FINISHED, "".join(json_line(asdict(reply)) for reply in replies))
    for unfinished in folder.glob(_PARTS):
        unfinished.unlink()


class ReplyStore(AppendFile):
    """Appends replies to one process's own file.

    Args:
        folder: of one model in one mode; made if it is not there.
        rank: number of the process.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        super().__init__(Path(folder, f"replies.part-{rank}.jsonl"))

    def append(self, replies: Iterable[Reply]) -> None:
        """Add replies; when this returns they are on disk."""
        super().append(map(asdict, replies))


_TYPES: dict[str, tuple[type, ...]] = {"scores": (dict,), "flags": (list,), "tokens": (int,)}


def _reply(record: Any) -> Reply:
    return record_of(Reply, record, _TYPES)


# From stored replies to outcomes: reading costs nothing, so it is done anew each time.

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
