"""Attention of queries that the key weights are folded into: softmax(q' h^T) h, with neither keys nor values.

Two ways of one function. `kept` leaves its weights to autograd: H * P numbers a patch beside the states. `lean` keeps
for backward the states alone and computes the weights again there: one matrix product in five more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SCORES = 2**24  # that `lean` holds at once: 64 MiB in float32


def kept(query: Tensor, states: Tensor, frame: Tensor | None = None, position: Tensor | None = None) -> Tensor:
    """Contexts of one video by plain operations.

    Args:
        query: (M, D), scaled; M = heads * tokens.
        states: (frames, patches, D), of the query's dtype or to be cast to it.
        frame: (M, frames), added to the scores of all patches of a frame.
        position: (M, patches), added to the scores of a patch in all frames.

    Returns:
        (M, D), of the query's dtype.
    """
    patches = states.flatten(0, 1).to(query.dtype)
    scores = _add(query @ patches.T, states.shape[0], frame, position)
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ patches


def lean(query: Tensor, states: Tensor, frame: Tensor | None = None, position: Tensor | None = None) -> Tensor:
    """As :func:`kept`, in pieces of whole frames; gradients can be taken once, not of gradients."""
    return _Lean.apply(query, states, frame, position)  # type: ignore[no-any-return]


def _add(scores: Tensor, frames: int, frame: Tensor | None, position: Tensor | None) -> Tensor:
    """A number a frame and a number a patch onto scores (M, frames * patches)."""
    if frame is None and position is None:
        return scores
    scores = scores.unflatten(-1, (frames, -1))
    if frame is not None:
        scores = scores + frame[:, :, None]
    if position is not None:
        scores = scores + position[:, None, :]
    return scores.flatten(1)


def _pieces(states: Tensor, rows: int) -> Iterator[slice]:
    """Ranges of frames that together make about `_SCORES` scores for so many queries."""
    frames, patches, _ = states.shape
    step = max(1, _SCORES // (rows * patches))
    for first in range(0, frames, step):
        yield slice(first, min(first + step, frames))


class _Lean(torch.autograd.Function):
    """Kept for backward: the states themselves (a reference) and what is as small as the queries."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, states: Tensor, frame: Tensor | None, position: Tensor | None) -> Tensor:
        top = query.new_full((len(query), 1), -torch.inf, dtype=torch.float32)
        total, context = torch.zeros_like(top), torch.zeros_like(query, dtype=torch.float32)
        for part in _pieces(states, len(query)):
            patches = states[part].flatten(0, 1).to(query.dtype)
            shares, higher = _shares(query @ patches.T, part, frame, position, top)
            fade = (top - higher).exp_()  # what was summed so far stood below another maximum
            total = total * fade + shares.sum(-1, keepdim=True)
            context = context * fade + shares.to(query.dtype) @ patches
            top = higher
        context /= total
        ctx.save_for_backward(query, states, frame, position, top, total, context)
        return context.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, states, frame, position, top, total, context = ctx.saved_tensors
        needed = ctx.needs_input_grad
        grad = grad.to(query.dtype)
        centre = (grad.float() * context).sum(-1, keepdim=True)
        found = _Gradients(query, states, frame, position, needed)
        both = torch.cat([query, grad])
        for part in _pieces(states, len(query)):
            patches = states[part].flatten(0, 1).to(query.dtype)
            scores, slopes = (both @ patches.T).float().chunk(2)
            shares, _ = _shares(scores, part, frame, position, top, move=False)
            # The shares stay undivided by their total: in float16 a weight of 1 / 20000 would have few bits left.
            found.add(part, patches, shares, slopes.sub_(centre).mul_(shares), grad / total, query / total)
        return found.result(total, context)


def _shares(
    scores: Tensor, part: slice, frame: Tensor | None, position: Tensor | None, top: Tensor, move: bool = True
) -> tuple[Tensor, Tensor]:
    """exp(scores - maximum) of some frames, float32, and the maximum (M, 1), which `move` lets rise."""
    frame = None if frame is None else frame[:, part]
    scores = _add(scores, part.stop - part.start, frame, position).float()
    top = torch.maximum(top, scores.amax(-1, keepdim=True)) if move else top
    return scores.sub_(top).exp_(), top


class _Gradients:
    """The sums that backward gathers piece by piece; None for what needs no gradient.

    The slopes of a query sum to 0. Their centre is known before the pieces only to the rounding of `context`, and
    states with a large mean turn this into a large error in half precision; so what the slopes sum to is taken out
    at the end. (The states' gradient is left alone: there the error stays as small as the rest.)
    """

    def __init__(self, query: Tensor, states: Tensor, frame: Any, position: Any, needed: tuple[bool, ...]) -> None:
        self.query = torch.zeros_like(query, dtype=torch.float32) if needed[0] else None
        self.states = torch.empty_like(states) if needed[1] else None
        self.frame = [] if needed[2] else None
        self.position = 0.0 if needed[3] else None
        self.excess = 0.0

    def add(
        self, part: slice, patches: Tensor, shares: Tensor, slopes: Tensor, grad_share: Tensor, query_share: Tensor
    ) -> None:
        """Shares and slopes (M, frames * patches), float32, both times the total; the last two divided by it."""
        self.excess = self.excess + slopes.sum(-1, keepdim=True)
        if self.frame is not None or self.position is not None:
            by_frame = torch.stack([slopes, shares]).unflatten(-1, (part.stop - part.start, -1))
            self.frame = None if self.frame is None else [*self.frame, by_frame.sum(-1)]
            self.position = None if self.position is None else self.position + by_frame.sum(-2)
        slopes = slopes.to(patches.dtype)
        if self.query is not None:
            self.query += slopes @ patches
        if self.states is not None:
            left, right = torch.cat([shares.to(patches.dtype), slopes]), torch.cat([grad_share, query_share])
            self.states[part] = (left.T @ right.to(patches.dtype)).view_as(self.states[part])

    def result(self, total: Tensor, context: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, states, frame and position; autograd casts them."""
        excess = self.excess / total
        query = None if self.query is None else self.query / total - excess * context
        sums = [None if self.frame is None else torch.cat(self.frame, -1), self.position]
        return query, self.states, *(None if x is None else (x[0] - excess * x[1]) / total for x in sums)
