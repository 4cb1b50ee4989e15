"""Many descriptions of short clips become one of the whole video, in as many calls as their length needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .items import Item
from .judge_answers import summary_of
from .judge_asking import Question, Verdict
from .judge_prompts import MERGE, merge, shortened


@dataclass(frozen=True)
class Note:
    """What was said about one stretch of a video.

    Args:
        text: of it.
        start: where it begins, as the judge is told: seconds, or the clip's number.
        end: where it ends, likewise.
    """

    text: str
    start: str
    end: str

    def __str__(self) -> str:
        return f"[{self.start} to {self.end}] {self.text}"


def notes_of(items: Sequence[Item], replies: Sequence[str], most: int) -> list[Note]:
    """Notes of a row's clips in order of time; clips of which nothing was said are left out.

    Args:
        items: of the row, their parts being numbers.
        replies: of each item.
        most: characters of a chunk; a note gets less than half of them, so that two always fit in one.
    """
    pairs = sorted(zip(items, replies, strict=True), key=lambda pair: int(pair[0].part))
    return [
        Note(shortened(reply.strip(), _longest(most)), *_times(item))
        for item, reply in pairs
        if reply.strip()
    ]  # fmt: skip


def chunks(notes: Sequence[Note], most: int) -> list[list[Note]]:
    """Consecutive notes, as many in a chunk as fit in `most` characters with their line breaks.

    Every chunk but the last holds two or more, as long as no note with its times is longer than half of `most`.
    """
    made: list[list[Note]] = []
    length = 0
    for note in notes:
        size = len(str(note)) + 1
        if made and length + size <= most:
            made[-1].append(note)
            length += size
        else:
            made.append([note])
            length = size
    return made


def merge_all(
    rows: Mapping[int, list[Note]], ask: Callable[[Sequence[Question]], list[Verdict]], most: int
) -> dict[int, Verdict]:
    """One text for each row: chunks are merged, and what comes out again, until one is left.

    Args:
        rows: number of a row -> its notes; none: the text is "".
        ask: questions -> verdicts.
        most: characters of a chunk.
    """
    done: dict[int, Verdict] = {}
    left = dict(rows)
    while left:
        for number, notes in list(left.items()):
            if len(notes) < 2:
                done[number] = Verdict(notes[0].text if notes else "")
                del left[number]
        parts = [(number, chunk) for number, notes in left.items() for chunk in chunks(notes, most)]
        asked = [chunk for _, chunk in parts if len(chunk) > 1]
        verdicts = iter(ask([Question(MERGE, merge([*map(str, chunk)]), summary_of) for chunk in asked]))
        left = {number: [] for number in left}
        for number, chunk in parts:
            verdict = next(verdicts) if len(chunk) > 1 else Verdict(chunk[0].text)
            if verdict.error:
                done.setdefault(number, verdict)
            else:
                text = shortened(verdict.value, _longest(most))
                left[number].append(Note(text, chunk[0].start, chunk[-1].end))
        left = {number: notes for number, notes in left.items() if number not in done}
    return done


def _longest(most: int) -> int:
    # Room for the times in front, and for the remark that something was left out.
    return most // 2 - 100


def _times(item: Item) -> tuple[str, str]:
    if item.start_s is None or item.end_s is None:
        return f"clip {item.part}", f"clip {item.part}"
    return f"{item.start_s:g} s", f"{item.end_s:g} s"
