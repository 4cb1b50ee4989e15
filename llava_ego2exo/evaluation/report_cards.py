"""What a report shows of one question: the clip, what was asked, and what came of it with each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .outcomes import FAILED, PARSED, Described, Outcome
from .report_clips import Clip, clip_of

LONGEST, LONGEST_QUESTION, LONGEST_OPTION = 600, 1500, 300
MOST_PARTS = 8  # of a row that is asked in parts
RIGHT, WRONG, DIFFERS = "right", "wrong", "differs"
Asker = tuple[str, str]


@dataclass(frozen=True)
class Text:
    """A text that may be too long to show.

    Args:
        shown: its beginning, or all of it.
        left: how many characters follow.
    """

    shown: str = ""
    left: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of it with one model in one mode.

    Args:
        asker: number of the model and mode among those of the report.
        result: "right", "wrong", "unparsed", "failed", or of a description "judged", "unjudged", "failed".
        replies: (question, where there are several; reply).
        more: how many further replies there are.
        read: what was read from it: the option's key and text.
        notes: what is odd about it.
        scores: (option's key, log-probability), the most likely first.
        summary: what was judged in place of the replies.
        marks: aspect -> 0 to 5, or None for a missing one.
    """

    asker: int
    result: str
    replies: tuple[tuple[Text, Text], ...] = ()
    more: int = 0
    read: tuple[str, Text] | None = None
    notes: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()
    summary: Text = Text()
    marks: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True)
class Card:
    """One question, or one row of descriptions.

    Args:
        name: id of the item, or of the row.
        clip: whose frames are shown.
        category: of the item.
        view: of the item.
        question: as the data asks it.
        options: (key, text, whether it is the right one).
        reference: of a description.
        answers: of each model and mode that was asked.
        words: "ASKER:RESULT", as the page's filter compares them.
    """

    name: str
    clip: Clip
    category: str
    view: str
    question: Text
    options: tuple[tuple[str, Text, bool], ...]
    reference: Text
    answers: tuple[Answer, ...]
    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """Roughly the bytes of its text on the page."""
        texts = [self.question, self.reference, *(text for _, text, _ in self.options)]
        for answer in self.answers:
            texts += [answer.summary, *(text for pair in answer.replies for text in pair)]
        return 1000 * (1 + len(self.answers)) + sum(len(text.shown.encode(errors="replace")) for text in texts)


def cut(text: str, longest: int = LONGEST) -> Text:
    """The first `longest` characters."""
    return Text(text[:longest], max(len(text) - longest, 0))


def result_of(outcome: Outcome) -> str:
    """Right or wrong where it was parsed, else its state."""
    return outcome.state if outcome.state != PARSED else RIGHT if outcome.right else WRONG


def choice_card(outcomes: Sequence[Outcome], askers: Sequence[Asker], base: str | None) -> Card:
    """The card of one item.

    Args:
        outcomes: all of the item's.
        askers: (model, mode) of the whole report.
        base: the model that others are compared with.
    """
    item = outcomes[0].item
    answers = [_choice_answer(one, askers.index((one.model, one.mode))) for one in outcomes]
    words = [f"{answer.asker}:{answer.result}" for answer in answers]
    words += [f"{askers.index((one.model, one.mode))}:{DIFFERS}" for one in differing(outcomes, base)]
    return Card(
        item.id, clip_of([item]), item.category, item.view, cut(item.question, LONGEST_QUESTION),
        tuple((key, cut(text, LONGEST_OPTION), key == item.answer) for key, text in item.choices.items()),
        Text(), tuple(sorted(answers, key=lambda answer: answer.asker)), tuple(words),
    )  # fmt: skip


def differing(outcomes: Sequence[Outcome], base: str | None) -> list[Outcome]:
    """Those of one item that are right where the base is not in the same mode, or the reverse."""
    theirs = {one.mode: one.right for one in outcomes if one.model == base}
    return [one for one in outcomes if one.mode in theirs and theirs[one.mode] != one.right]


def described_card(rows: Sequence[Described], askers: Sequence[Asker], name: str) -> Card:
    """The card of one row of descriptions.

    Args:
        rows: one of each model.
        askers: (model, "") of the whole report.
        name: of the row.
    """
    first = rows[0].items[0]
    answers = [_described_answer(one, askers.index((one.model, ""))) for one in rows]
    return Card(
        name, clip_of(rows[0].items), first.category, first.view, cut(first.question, LONGEST_QUESTION), (),
        cut(first.answer), tuple(sorted(answers, key=lambda answer: answer.asker)),
        tuple(f"{answer.asker}:{answer.result}" for answer in answers),
    )  # fmt: skip


def _choice_answer(outcome: Outcome, asker: int) -> Answer:
    notes = [{"cut": "it reached the length limit", "empty": "it is empty"}.get(flag, flag) for flag in outcome.flags]
    notes += ["read by the judge"] if outcome.judged else []
    notes += [f"failed: {cut(outcome.error or 'no cause is known').shown}"] if outcome.state == FAILED else []
    picked = outcome.picked
    return Answer(
        asker, result_of(outcome), ((Text(), cut(outcome.reply)),) if outcome.reply else (),
        read=None if picked is None else (picked, cut(outcome.item.choices[picked], LONGEST_OPTION)),
        notes=tuple(notes), scores=_ranked(outcome.scores),
    )  # fmt: skip


def _ranked(scores: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(scores.items(), key=lambda pair: -pair[1]))


def _described_answer(row: Described, asker: int) -> Answer:
    several = len(row.items) > 1
    replies = [
        (cut(item.question, LONGEST_OPTION) if several else Text(), cut(reply))
        for item, reply in zip(row.items, row.replies, strict=True)
    ]
    return Answer(
        asker, row.state, tuple(replies[:MOST_PARTS]), max(len(replies) - MOST_PARTS, 0),
        notes=(cut(row.error).shown,) if row.error else (), summary=cut(row.summary), marks=tuple(row.marks.items()),
    )  # fmt: skip
