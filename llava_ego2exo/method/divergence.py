"""How far a student's distribution over tokens is from its teacher's: forward KL, reverse KL, or a mean of two.

The family is that of GKD (arXiv 2306.13649). Forward KL (the paper's kind of distillation) asks the student to cover
all that the teacher finds likely; reverse KL to say nothing that the teacher finds unlikely.
"""

from __future__ import annotations

import math
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
    """

    kind: str = "forward"
    temperature: float = 1.0
    beta: float = 0.5

    def __call__(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The sum over tokens, a scalar, of logits (n, V) in float32; no gradient reaches the teacher's."""
        target = F.log_softmax(teacher.detach() / self.temperature, dim=-1)
        found = F.log_softmax(student / self.temperature, dim=-1)
        return self._of(target, found) * self.temperature**2

    def _of(self, target: Tensor, found: Tensor) -> Tensor:
        if self.kind != "jsd":
            return _kl(*{"forward": (target, found), "reverse": (found, target)}[self.kind])
        mixed = torch.logaddexp(target + math.log(self.beta), found + math.log1p(-self.beta))
        return self.beta * _kl(target, mixed) + (1 - self.beta) * _kl(found, mixed)


def _kl(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other), summed over tokens, of log-probabilities (n, V)."""
    return F.kl_div(other, one, reduction="sum", log_target=True)
