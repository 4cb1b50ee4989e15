"""Rows of one batch that are each sampled, stopped and reported in their own way.

`generate` knows one temperature and one length for a batch. Here a row that samples has its token drawn by a logits
processor, which leaves `generate` that token alone; a row that does not is greedy as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList


def _ignore(_text: str) -> None:
    pass


@dataclass
class Row:
    """One request in a batch, and what has become of it.

    Args:
        max_tokens: most tokens of its answer.
        temperature: 0: greedy.
        top_p: share of the likeliest tokens that are drawn from.
        seed: of its draws; None: another one each time.
        stop: texts that end the answer, and are not part of it.
        report: called with each new piece of the answer's text.
        cancelled: whether no client waits for it any longer.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    report: Callable[[str], None] = _ignore
    cancelled: Callable[[], bool] = bool
    prompt_tokens: int = 0  # visual ones included
    tokens: list[int] = field(default_factory=list)  # the end token included
    text: str = ""
    reason: str = ""  # "stop", "length" or "cancelled", once it has ended


class Steering:
    """What a batch of rows gives `generate`, and the rows afterwards.

    Args:
        rows: in the order of the batch.
        tokenizer: the model's.
        ends: ids that end an answer.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: Any, ends: Sequence[int]) -> None:
        self.rows, self.tokenizer, self.ends = rows, tokenizer, frozenset(ends)

    def arguments(self) -> dict[str, Any]:
        """For `generate`."""
        sampling = any(row.temperature > 0 for row in self.rows)
        return {
            "max_new_tokens": max(row.max_tokens for row in self.rows),
            "logits_processor": LogitsProcessorList([_Draw(self.rows)] if sampling else []),
            "stopping_criteria": StoppingCriteriaList([_Stop(self)]),
        }

    def advance(self, row: Row, token: int) -> None:
        """Take one more token of a row that has not ended."""
        row.tokens.append(token)
        ended = token in self.ends
        whole = self.tokenizer.decode(row.tokens, skip_special_tokens=True).lstrip()
        found = [at for at in (whole.find(stop) for stop in row.stop) if at >= 0]
        if found:
            whole = whole[: min(found)]
        if row.cancelled():
            row.reason = "cancelled"
        elif ended or found:
            row.reason = "stop"
        elif len(row.tokens) >= row.max_tokens:
            row.reason = "length"
        # What may still change, or turn out to begin a stop text, waits: half a character, a blank at the end.
        ready = whole.rstrip() if row.reason else _settled(whole, row.stop)
        if len(ready) > len(row.text):
            piece, row.text = ready[len(row.text) :], ready
            row.report(piece)


def _settled(text: str, stops: Sequence[str]) -> str:
    """The part of a text that further tokens leave as it is."""
    text = text.rstrip("\ufffd").rstrip()
    held = max((length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length])), default=0)
    return text[: len(text) - held].rstrip()


class _Draw(LogitsProcessor):
    """Leaves of a row that samples the token drawn for it."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.generators = [torch.Generator() for _ in rows]
        for row, generator in zip(rows, self.generators, strict=True):
            generator.seed() if row.seed is None else generator.manual_seed(row.seed)

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for number, row in enumerate(self.rows):
            if row.temperature > 0 and not row.reason:
                token = draw(scores[number], row.temperature, row.top_p, self.generators[number])
                scores[number] = -torch.inf
                scores[number, token] = 0.0
        return scores


def draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token of softmax(logits / temperature), among the likeliest that together have `top_p`; on the CPU."""
    shares, order = (logits.float().cpu() / temperature).softmax(-1).sort(descending=True)
    shares = shares * (shares.cumsum(-1) - shares < top_p)  # the first one always stays
    return int(order[torch.multinomial(shares, 1, generator=generator)])


class _Stop(StoppingCriteria):
    """Hands each new token to its row, and ends the rows that are done."""

    def __init__(self, steering: Steering) -> None:
        self.steering = steering

    def __call__(self, ids: Tensor, _scores: Any, **_kwargs: Any) -> Tensor:
        rows = self.steering.rows
        for row, token in zip(rows, ids[:, -1].tolist(), strict=True):
            if not row.reason:
                self.steering.advance(row, token)
        return torch.tensor([bool(row.reason) for row in rows], device=ids.device)
