"""Which supervised tokens are an answer's own: LLaVA-NeXT supervises tokens of the conversation template too."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor


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
