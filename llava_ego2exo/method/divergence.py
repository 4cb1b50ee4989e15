"""How far a student's distribution over tokens is from its teacher's: forward KL, reverse KL, or a mean of two.

The family is that of GKD (arXiv 2306.13649). Forward KL (the paper's kind of distillation) asks the student to cover
all that the teacher finds likely; reverse KL to say nothing that the teacher finds unlikely.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Divergence:
    """T^2 times a divergence of softmax(logits / T); the factor keeps the gradient's size when T changes.

    With P the teacher's distribution and Q the student's:

    - `forward`: KL(P || Q);
    - `reverse`: KL(Q || P);
    - `jsd`: b KL(P || M) + (1 - b) KL(Q || M), with M = b P + (1 - b) Q and b = `beta`, above 0 and below 1.

    With `cap` one token counts as at most so much (T^2 included), and one above it has no gradient.
    """

    kind: str = "forward"
    temperature: float = 1.0
    beta: float = 0.5
    cap: float | None = None

    def __call__(self, teacher: Tensor, student: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The sum over tokens, and how many were above the cap, two scalars.

        Args:
            teacher, student: logits (n, V) in float32; no gradient reaches the teacher's.
            kept: (n,) bool, the tokens that count; None: all.
        """
        if self.cap is None and kept is None:
            return self._of(teacher, student, _summed), student.new_zeros(())
        each = self.each(teacher, student)
        each = each if kept is None else each[kept]
        if self.cap is None:
            return each.sum(), student.new_zeros(())
        return each.clamp_max(self.cap).sum(), (each.detach() > self.cap).sum()

    def each(self, teacher: Tensor, student: Tensor) -> Tensor:
        """(n,) that of each token, without a cap."""
        return self._of(teacher, student, _of_each)

    def _of(self, teacher: Tensor, student: Tensor, kl: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        target = F.log_softmax(teacher.detach() / self.temperature, dim=-1)
        found = F.log_softmax(student / self.temperature, dim=-1)
        if self.kind != "jsd":
            apart = kl(*{"forward": (target, found), "reverse": (found, target)}[self.kind])
        else:
            mixed = torch.logaddexp(target + math.log(self.beta), found + math.log1p(-self.beta))
            apart = self.beta * kl(target, mixed) + (1 - self.beta) * kl(found, mixed)
        return apart * self.temperature**2


def _summed(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other), summed over tokens, of log-probabilities (n, V)."""
    return F.kl_div(other, one, reduction="sum", log_target=True)


def _of_each(one: Tensor, other: Tensor) -> Tensor:
    """The same for each token, (n,)."""
    return F.kl_div(other, one, reduction="none", log_target=True).sum(-1)
