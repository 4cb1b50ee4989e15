"""Which clips a run shows, with which questions, and in which batches: fixed by the items and the batch size alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..runs.batches import in_batches
from .items import Item
from .prompts import VERSION, prompt_of
from .replies import reply_key


@dataclass(frozen=True)
class Question:
    """One item as it is put.

    Args:
        id: of the item.
        key: of its reply.
        text: without placeholder and template.
        options: keys of the options; empty for a description.
    """

    id: str
    key: str
    text: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Clip:
    """One clip with its questions.

    Args:
        path: of the video.
        start_s: where the clip begins, in seconds; None: at the start.
        end_s: where it ends; None: at the end.
        questions: one or more.
    """

    path: str
    start_s: float | None
    end_s: float | None
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Plan:
    """What one model is asked in one mode.

    Args:
        clips: each once, in order of the items.
        keys: item's id -> key of its reply.
    """

    clips: list[Clip] = field(default_factory=list)
    keys: Mapping[str, str] = field(default_factory=dict)

    def batches(self, size: int) -> list[tuple[Clip, ...]]:
        """The clips, `size` a batch."""
        return in_batches(self.clips, size)


def make_plan(items: Sequence[Item], hashes: Mapping[str, str], asking: Sequence[object]) -> Plan:
    """All questions of a clip stand together, so that it is decoded and encoded once.

    Args:
        items: those whose video was found.
        hashes: path -> sha256 of the file.
        asking: all that a reply hangs on beside clip and question: mode, model, settings.
    """
    clips: dict[tuple[str, float | None, float | None], list[Question]] = {}
    keys: dict[str, str] = {}
    for item in items:
        text, options = prompt_of(item), tuple(item.choices)
        # As floats: 3 and 3.0 are one moment.
        span = [None if second is None else float(second) for second in (item.start_s, item.end_s)]
        keys[item.id] = reply_key([item.id, hashes[item.path], *span, text, options, VERSION, *asking])
        questions = clips.setdefault((item.path, item.start_s, item.end_s), [])
        questions.append(Question(item.id, keys[item.id], text, options))
    return Plan([Clip(*place, tuple(questions)) for place, questions in clips.items()], keys)
