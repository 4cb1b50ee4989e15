"""Answer tokens: separated from the conversation template around them, and paired with the teacher's."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ..model.answer_pass import Answers


class AnswerContent:
    """Separates the tokens of answers from those of the template, which LLaVA-NeXT supervises too.

    Special tokens, tokens without any visible letter, and the role's name after a special token belong to the template.

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
        """Where the role's name directly follows a special token."""
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


def align_answers(student: Answers, teacher: Answers, rows: list[int]) -> tuple[Tensor, Tensor, int]:
    """Pair the supervised tokens of two batches, row by row and in order.

    A row that was cut at the model's length keeps its beginning, so the common beginning of both rows is used.

    Args:
        student: the student's.
        teacher: the teacher's.
        rows: the student's row of each of the teacher's.

    Returns:
        Indices of the pairs in the student's tokens (M,), in the teacher's (M,), and how many of the student's tokens
        in these rows have no partner.

    Raises:
        Ego2ExoError: the tokens themselves differ.
    """
    student_at, teacher_at, unmatched = [student.tokens[:0]], [teacher.tokens[:0]], 0
    for index, row in enumerate(rows):
        mine, other = student.row(row), teacher.row(index)
        count = min(len(mine), len(other))
        unmatched += len(mine) - count
        student_at.append(mine[:count])
        teacher_at.append(other[:count])
        found, expected = student.tokens[mine[:count]], teacher.tokens[other[:count]].to(student.tokens.device)
        if not torch.equal(found, expected):
            first = int((found != expected).nonzero()[0])
            raise Ego2ExoError(
                f"row {row} of a batch: answer token {first} is {int(found[first])} for the student and "
                f"{int(expected[first])} for the teacher",
                "the same answer tokens for both",
                "use one tokenizer and one conversation template; prompts that differ must not be supervised",
            )
    return torch.cat(student_at), torch.cat(teacher_at), unmatched
