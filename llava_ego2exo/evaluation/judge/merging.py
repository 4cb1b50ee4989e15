"""Merging descriptions of short clips into one of the whole video, in as many calls as their length needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..items import Item
from .client import JudgeRequest, Verdict
from .prompts import MERGE, shortened


class ClipNote(NamedTuple):
    """The description of one stretch of a video, and where that begins and ends, as shown to the judge."""

    text: str
    start: str
    end: str

    def __str__(self) -> str:
        return f"[{self.start} to {self.end}] {self.text}"


def clip_notes(items: Sequence[Item], replies: Sequence[str], limit: int) -> list[ClipNote]:
    """Notes of a row's clips in order of time; clips with an empty reply are left out.

    Args:
        items: of the row, their parts being numbers.
        replies: of each item.
        limit: characters of a chunk; a note gets less than half of them, so that two always fit in one.
    """
    pairs = sorted(zip(items, replies, strict=True), key=lambda pair: int(pair[0].part))
    return [_note(reply, *_times(item), limit) for item, reply in pairs if reply.strip()]


def chunks(notes: Sequence[ClipNote], limit: int) -> list[list[ClipNote]]:
    """Consecutive notes, as many in a chunk as fit in `limit` characters with their line breaks.

    Every chunk but the last holds two or more, as long as no note with its times is longer than half of `limit`.
    """
    made: list[list[ClipNote]] = []
    length = 0
    for note in notes:
        size = len(str(note)) + 1
        if not made or length + size > limit:
            made.append([])
            length = 0
        made[-1].append(note)
        length += size
    return made


def merge_rows(
    rows: Mapping[int, list[ClipNote]], ask: Callable[[Sequence[JudgeRequest]], list[Verdict]], limit: int
) -> dict[int, Verdict]:
    """One text for each row: chunks are merged, then the results, until one is left.

    Args:
        rows: number of a row -> its notes; an empty list gives the text "".
        ask: requests -> verdicts.
        limit: characters of a chunk.
    """
    done: dict[int, Verdict] = {}
    left = dict(rows)
    while left:
        done |= {number: Verdict(notes[0].text if notes else "") for number, notes in left.items() if len(notes) < 2}
        parts = [(n, chunk) for n, notes in left.items() if n not in done for chunk in chunks(notes, limit)]
        left = {}
        lines = ["\n".join(map(str, chunk)) for _, chunk in parts if len(chunk) > 1]
        verdicts = iter(ask([JudgeRequest(MERGE, {"NOTES": text}) for text in lines]))
        for number, chunk in parts:
            verdict = next(verdicts) if len(chunk) > 1 else Verdict(chunk[0].text)
            if verdict.error:
                done.setdefault(number, verdict)
            else:
                left.setdefault(number, []).append(_note(verdict.value, chunk[0].start, chunk[-1].end, limit))
        left = {number: notes for number, notes in left.items() if number not in done}
    return done


def _note(text: str, start: str, end: str, limit: int) -> ClipNote:
    # Room for the times in front, and for the remark that something was left out.
    return ClipNote(shortened(text.strip(), limit // 2 - 100), start, end)


def _times(item: Item) -> tuple[str, str]:
    if item.start_s is None or item.end_s is None:
        return f"clip {item.part}", f"clip {item.part}"
    return f"{item.start_s:g} s", f"{item.end_s:g} s"
