"""A loss that no run should have: not finite, exactly zero, or of samples without an answer, with the likely cause."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import nn

from ..errors import Ego2ExoError
from ..runs.listing import listed
from .tally import LONGER, Sums

# Global batches in a row without a single answer token: by then it is no chance of the shuffle.
_EMPTY = 10


class LossChecks:
    """What is looked at of every global batch; the numbers are those that are logged, so that it costs nothing.

    Args:
        weight: of the KL.
        allowed: samples of the first batch that may be without an answer (`--ego2exo_max_bad`).
    """

    def __init__(self, weight: float, allowed: int = 0) -> None:
        self.weight, self.allowed = weight, allowed
        self.empty = 0
        self.last: float | None = None

    def look(self, sums: Sums, step: int, model: nn.Module, args: Any) -> None:
        """Look at one global batch before the optimizer steps.

        Args:
            sums: of all its samples.
            step: optimizer steps that are done.
            model: in training.
            args: LLaVA's training arguments.

        Raises:
            Ego2ExoError: the run would train on numbers by accident.
        """
        loss = sums.loss(self.weight)
        if not isfinite(loss):
            raise self._not_finite(sums, step, model, args)
        if step == 0 and sums.masked > self.allowed:
            raise _without_answers(sums)
        self.empty = 0 if sums.tokens else self.empty + 1
        if self.empty >= _EMPTY:
            raise _all_masked(self.empty, step)
        if sums.tokens and loss == 0:
            raise self._zero(sums, step)
        self.last = loss if sums.tokens else self.last

    def _zero(self, sums: Sums, step: int) -> Ego2ExoError:
        before = "" if self.last is None else f"; the loss of the step before was {self.last:.4g}"
        return Ego2ExoError(
            f"the loss of step {step + 1} is exactly 0 over {sums.tokens:.0f} answer tokens{before}",
            "a loss above 0",
            "the labels may be what the model is shown (look at --version and the answers), or the weights have grown "
            "without bound: lower --learning_rate",
        )

    def _not_finite(self, sums: Sums, step: int, model: nn.Module, args: Any) -> Ego2ExoError:
        cause, remedy = _cause(sums, step, model, args)
        before = "" if self.last is None else f", behind {self.last:.4g} in the step before"
        return Ego2ExoError(
            f"the loss of step {step + 1} is not finite{before} (cross-entropy {sums.ce:.4g}, KL {sums.kl:.4g}, "
            f"{sums.tokens:.0f} answer tokens); {cause}. The step was not taken",
            "a finite loss",
            remedy,
        )


def _cause(sums: Sums, step: int, model: nn.Module, args: Any) -> tuple[str, str]:
    """The likely reason, and what to do."""
    broken = [n for n, p in model.named_parameters() if p.is_floating_point() and not bool(torch.isfinite(p).all())]
    if broken and not step:
        return (
            f"{len(broken)} weights are not finite before the first step: {listed(broken)}",
            "take a whole base checkpoint, and --bf16 True in place of --fp16 True",
        )
    if broken:
        rates = f"--learning_rate {args.learning_rate}, --mm_projector_lr {getattr(args, 'mm_projector_lr', None)}"
        return (
            f"{len(broken)} weights are no longer finite: {listed(broken)}",
            f"an earlier step was too large: lower the learning rates ({rates}), or give --warmup_ratio",
        )
    if isfinite(sums.ce):
        return (
            "the KL alone is not",
            "the teacher's numbers are not finite: ask a teacher in --bf16, or store its logits anew",
        )
    if args.fp16:
        return (
            "all weights are finite",
            "float16 ends at 65504, which the states of a large model pass: use --bf16 True",
        )
    return (
        "all weights are finite, so that the forward pass has overflowed",
        "lower the learning rates; look at the files of this batch for pixels or labels that are not finite",
    )


def _without_answers(sums: Sums) -> Ego2ExoError:
    every = sums.masked == sums.samples
    count = f"all {sums.samples:.0f}" if every else f"{sums.masked:.0f} of {sums.samples:.0f}"
    return Ego2ExoError(
        f"{count} samples of the first batch have no token of an answer left; {sums.cut:.0f} were cut at "
        "--model_max_length. No step was taken, and no model is saved",
        "samples whose answers are left",
        (LONGER if sums.cut else "give --version the conversation template that the base was trained with")
        + ("" if every else ", remove these samples, or allow some with --ego2exo_max_bad"),
    )


def _all_masked(count: int, step: int) -> Ego2ExoError:
    return Ego2ExoError(
        f"no answer token was left in {count} global batches in a row, up to step {step + 1}: the loss is 0 of nothing",
        "batches with answers",
        f"{LONGER}, or look at the answers of the training file",
    )
