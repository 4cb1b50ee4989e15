"""What models replied, on disk: one JSON object a line, appended during a run, put in order at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..common.record_store import RecordStore

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
