"""What the losses of a global batch add up to, and gradients that are right for it.

LLaVA takes the mean over the answer tokens of each small batch, and the mean of these means over accumulation steps and
processes: a token in a batch of short answers then weighs more than one in a batch of long answers. Here each token of
the global batch weighs the same. How many there are is known at its end only, so each small batch's loss is divided by
one fixed number, and the sum of the gradients corrected once, before clipping.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from typing import Any

import torch

# Any number serves; near a batch's tokens it keeps float16 in range, and a power of two rounds nothing.
REFERENCE = 256.0
LONGER = "raise --model_max_length, or take fewer frames (--frames_upbound, --video_fps)"


@dataclass
class Sums:
    """Sums over answer tokens, of a batch or of many.

    Args:
        ce: cross-entropy over all answer tokens.
        kl: T^2 KL over the tokens that a teacher spoke of.
        tokens: answer tokens.
        kl_tokens: of these, the ones with a KL.
        left_out: the ones that should have a KL and have none, because a row was cut or tokens were not found.
        samples: rows.
        positions: of the expanded rows, padding left out.
        masked: rows without any token of an answer's own text: they teach nothing.
        cut: rows that are as long as a row can be, so that their end is missing.
        unreadable: rows that stand for samples that cannot be read; they are in no other number.
    """

    ce: float = 0.0
    kl: float = 0.0
    tokens: float = 0.0
    kl_tokens: float = 0.0
    left_out: float = 0.0
    samples: float = 0.0
    positions: float = 0.0
    masked: float = 0.0
    cut: float = 0.0
    unreadable: float = 0.0

    def add(self, other: Sums) -> None:
        """Add another's sums to these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def leave_out(self, rows: int) -> None:
        """Of the last batch that was added so many rows stand for samples that cannot be read."""
        self.samples -= rows
        self.masked -= rows
        self.unreadable += rows

    def loss(self, weight: float) -> float:
        """Mean over all answer tokens of cross-entropy and `weight` times KL; 0 where there is no token."""
        return (self.ce + weight * self.kl) / max(self.tokens, 1.0)

    def over_processes(self, device: Any) -> Sums:
        """The sum over all processes."""
        values = torch.tensor(astuple(self), dtype=torch.float64, device=device)
        torch.distributed.all_reduce(values)
        return Sums(*values.tolist())

    def short(self) -> list[str]:
        """Samples that were cut, and those that taught nothing, in words."""
        lines = []
        if self.cut:
            lines.append(f"{self.cut:.0f} of {self.samples:.0f} samples were cut at --model_max_length; {LONGER}")
        if self.masked:
            lines.append(f"{self.masked:.0f} of {self.samples:.0f} samples had no token of an answer left")
        return lines

    def told(self, distilling: bool) -> list[str]:
        """What of a run had to be left out, in words."""
        lines = self.short()
        if distilling and not self.kl_tokens:
            lines.append("no answer token had a KL in this run")
        if self.left_out:
            lines.append(
                f"{self.left_out:.0f} of {self.tokens:.0f} answer tokens had no KL though their sample has a teacher: "
                "rows cut at --model_max_length, or stored answers that the tokenizer now cuts otherwise"
            )
        return lines

    def logged(self, distilling: bool) -> dict[str, float]:
        """As the trainer logs them."""
        tokens = max(self.tokens, 1.0)
        logs = {"loss_ce": self.ce / tokens}
        if distilling:
            logs |= {"loss_kl": self.kl / max(self.kl_tokens, 1.0), "kl_tokens": self.kl_tokens}
        logs["answer_tokens"] = self.tokens / max(self.samples, 1.0)
        logs["supervised_share"] = self.tokens / max(self.positions, 1.0)
        return {name: round(value, 6) for name, value in logs.items()}


class Steps:
    """Which small batch of a global batch is at hand, by the rule of transformers' training loop.

    Args:
        accumulation: small batches of a global batch.
    """

    def __init__(self, accumulation: int) -> None:
        self.accumulation = accumulation
        self.start_run()

    def start_run(self) -> None:
        """A training loop begins."""
        self.total = self.in_epoch = 0

    def start_epoch(self) -> None:
        """An epoch begins; a global batch may reach over it."""
        self.in_epoch = 0

    def next_is_last(self, epoch_length: int) -> bool:
        """Count one small batch; whether the optimizer steps behind it."""
        self.total += 1
        self.in_epoch += 1
        short = epoch_length <= self.accumulation and self.in_epoch == epoch_length
        return self.total % self.accumulation == 0 or short


def correct_gradients(model: torch.nn.Module, factor: float) -> None:
    """Multiply every gradient in place."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)
