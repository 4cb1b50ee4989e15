"""The student's answer tokens and the teacher's: the same words behind inputs of different length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ..model.answer_pass import Answers


def align_answers(student: Answers, teacher: Answers, rows: list[int]) -> tuple[Tensor, Tensor, int]:
    """Pair the supervised tokens of two batches, row by row and in order.

    A row that was cut at the model's length keeps its head, so the common head of both rows is used.

    Args:
        student: the student's.
        teacher: the teacher's.
        rows: the student's row of each of the teacher's.

    Returns:
        Where in the student's tokens the pairs stand (M,), where in the teacher's (M,), and how many tokens of the
        student's in these rows have no partner.

    Raises:
        Ego2ExoError: the tokens themselves differ.
    """
    ours, theirs, left_out = [student.tokens[:0]], [teacher.tokens[:0]], 0
    for index, row in enumerate(rows):
        mine, other = student.row(row), teacher.row(index)
        count = min(len(mine), len(other))
        left_out += len(mine) - count
        ours.append(mine[:count])
        theirs.append(other[:count])
        found, expected = student.tokens[mine[:count]], teacher.tokens[other[:count]].to(student.tokens.device)
        if not torch.equal(found, expected):
            first = int((found != expected).nonzero()[0])
            raise Ego2ExoError(
                f"row {row} of a batch: answer token {first} is {int(found[first])} for the student and "
                f"{int(expected[first])} for the teacher",
                "the same answer tokens for both",
                "use one tokenizer and one conversation template; prompts that differ must not be supervised",
            )
    return torch.cat(ours), torch.cat(theirs), left_out


Turn = dict[str, Any]


def align_turns(
    student: Answers, rows: list[int], turns: list[list[Turn]]
) -> tuple[Tensor, list[tuple[Turn, slice]], int]:
    """Find stored answers inside the supervised tokens.

    LLaVA supervises an answer together with tokens of the conversation template around it. A stored answer is looked
    for as one unbroken run of its row's supervised tokens, behind the turn before it; at the end of a row that was cut,
    its head is enough. Of an answer that differs in the blanks at its beginning alone, all but the first tokens are
    found. One whose text makes other tokens than the teacher wrote (the same letters can be cut in other ways) is not
    found, and has no KL.

    Args:
        student: the student's answer tokens.
        rows: the rows with stored answers.
        turns: for each its turns in order, with `tokens` (T,) and perhaps what :func:`beginnings` gives.

    Returns:
        Where in the student's tokens the found ones stand (M,), the turns with which tokens of each, in the same order,
        and how many tokens of stored answers were not found.
    """
    ours, parts, left_out = [student.tokens[:0]], [], 0
    for row, stored in zip(rows, turns, strict=True):
        mine = student.row(row)
        text = Row(student.tokens[mine].tolist(), student.places[mine].tolist(), student.cut[row])
        cursor = 0
        for turn in stored:
            start, part = find_turn(text, turn, cursor)
            count = part.stop - part.start
            left_out += len(turn["tokens"]) - count
            if count:
                cursor = start + count
                ours.append(mine[start:cursor])
                parts.append((turn, part))
    return torch.cat(ours), parts, left_out


def beginnings(tokens: list[int], tokenizer: Any) -> list[tuple[int, list[int]]]:
    """How a stored answer may begin once blanks before its first letter are gone, as they are in a training file.

    Args:
        tokens: the answer's.
        tokenizer: the student's.

    Returns:
        How many of the tokens are written otherwise, and the tokens in their place; those that keep most first, none
        where the answer begins without a blank.
    """
    blank = 0
    while blank < len(tokens) and not tokenizer.decode([tokens[blank]]).strip():
        blank += 1
    found: list[tuple[int, list[int]]] = [(skip, []) for skip in range(1, blank + 1)]
    text = tokenizer.decode([tokens[blank]]) if blank < len(tokens) else ""
    if text != text.lstrip():
        found.append((blank + 1, tokenizer(text.lstrip(), add_special_tokens=False).input_ids))
    return found


def find_turn(row: Row, turn: Turn, cursor: int) -> tuple[int, slice]:
    """Where a stored answer stands at or behind `cursor`, and which of its tokens; an empty slice where it does not."""
    wanted = turn["tokens"].tolist()
    for skip, head in [(0, []), *turn.get("beginnings", [])]:
        # Behind a blank, an end token alone would be found after any turn.
        if skip and len(head) + len(wanted) - skip < 2:
            continue
        start, count = row.find([*head, *wanted[skip:]], cursor)
        if count > len(head):
            return start + len(head), slice(skip, skip + count - len(head))
    return cursor, slice(0, 0)


@dataclass(frozen=True)
class Row:
    """One row's supervised tokens.

    Args:
        tokens: in order.
        places: where each stands in the row.
        cut: whether the row's end may be missing.
    """

    tokens: list[int]
    places: list[int]
    cut: bool

    def find(self, wanted: list[int], cursor: int) -> tuple[int, int]:
        """Where `wanted` stands at or behind `cursor`, and how much of it; (cursor, 0) where it does not."""
        for start in range(cursor, len(self.tokens) - len(wanted) + 1):
            if self._stands(wanted, start):
                return start, len(wanted)
        for start in range(max(cursor, len(self.tokens) - len(wanted) + 1), len(self.tokens) if self.cut else 0):
            count = len(self.tokens) - start
            if self._stands(wanted[:count], start):
                return start, count
        return cursor, 0

    def _stands(self, wanted: list[int], start: int) -> bool:
        end = start + len(wanted)
        unbroken = bool(wanted) and self.places[end - 1] - self.places[start] == len(wanted) - 1
        return unbroken and self.tokens[start:end] == wanted


# Which supervised tokens are an answer's own: LLaVA-NeXT supervises tokens of the conversation template too.


class AnswerContent:
    """Tells the tokens of answers from those of the template around them.

    Special tokens, tokens without any visible letter, and the role's name behind a special token are the template's.

    Args:
        tokenizer: the student's.
        role: what the template calls the answering side, with or without its special tokens.
    """

    def __init__(self, tokenizer: Any, role: str) -> None:
        self.tokenizer = tokenizer
        self.special = frozenset(tokenizer.all_special_ids)
        name = re.sub(r"<[^>]*>", "", role).strip()
        self.role: list[int] = tokenizer(name, add_special_tokens=False).input_ids if name else []
        self._empty: dict[int, bool] = {}

    def own(self, labels: Tensor) -> Tensor:
        """(rows, length) bool: where a label is of an answer itself.

        Args:
            labels: (rows, length), negative where nothing is supervised.
        """
        special = _among(labels, self.special)
        empty = {value for value in labels.unique().tolist() if value >= 0 and self._is_empty(value)}
        own = (labels >= 0) & ~special & ~_among(labels, empty)
        return own & ~self._roles(labels, special)

    def _is_empty(self, token: int) -> bool:
        if token not in self._empty:
            self._empty[token] = not self.tokenizer.decode([token]).strip()
        return self._empty[token]

    def _roles(self, labels: Tensor, special: Tensor) -> Tensor:
        """Where the role's name stands directly behind a special token."""
        found, length, span = torch.zeros_like(special), labels.shape[1], len(self.role)
        if not span or length <= span:
            return found
        begins = special[:, : length - span].clone()
        for place, token in enumerate(self.role):
            begins &= labels[:, place + 1 : length - span + place + 1] == token
        for place in range(span):
            found[:, place + 1 : length - span + place + 1] |= begins
        return found


def _among(labels: Tensor, ids: Any) -> Tensor:
    return torch.isin(labels, torch.tensor(sorted(ids), dtype=labels.dtype, device=labels.device))
