"""The loss of a small batch (cross-entropy, with a teacher also the KL), and what a global batch's losses add up to.

LLaVA takes the mean over the answer tokens of each small batch, and the mean of these means over accumulation steps and
processes: a token in a batch of short answers then weighs more than one in a batch of long answers. Here each token of
the global batch weighs the same. How many there are is known at its end only, so each small batch's loss is divided by
one fixed number, and the sum of the gradients is corrected once, before clipping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ...method.divergence import Divergence
from ...method.losses import distillation_sums
from ...run_config import DistillConfig
from ..model.answer_tokens import AnswerContent, Answers, ExpandedLabels, answer_pass, capture_labels, llava_model

# Any number serves; near a batch's tokens it keeps float16 in range, and a power of two rounds nothing.
REFERENCE = 256.0
SAMPLED = "sampled"  # in a batch: what the student has written into it
LONGER = "raise --model_max_length, or take fewer frames (--frames_upbound, --video_fps)"


@dataclass
class LossStats:
    """Sums over the answer tokens of a batch, or of many."""

    ce: float = 0.0  # cross-entropy over all answer tokens
    kl: float = 0.0  # T^2 KL, or the divergence in its place, over the tokens that have teacher targets
    tokens: float = 0.0  # answer tokens
    ce_tokens: float = 0.0  # of these, the ones with a cross-entropy: all but the student's own
    kl_tokens: float = 0.0  # of these, the ones with a KL
    unmatched: float = 0.0  # the ones that should have a KL and have none: a row was cut, or tokens were not found
    samples: float = 0.0  # rows
    positions: float = 0.0  # of the expanded rows, without padding
    masked: float = 0.0  # rows without any token of an answer's own text: they train nothing
    cut: float = 0.0  # rows that are as long as a row can be, so that their end is missing
    unreadable: float = 0.0  # rows in place of samples that cannot be read; they are in no other number
    capped: float = 0.0  # tokens whose KL was above --ego2exo_privilege_cap
    left_out: float = 0.0  # tokens whose KL does not count, by --ego2exo_privilege_filter
    batches: float = 0.0  # small batches
    on_policy: float = 0.0  # of these, the ones of on-policy steps; what follows is of their samples alone
    sampled: float = 0.0  # rows that the student has answered
    sampled_ended: float = 0.0  # of these, the ones that it ended itself
    sampled_tokens: float = 0.0  # all that it wrote
    scored: float = 0.0  # of these tokens, the ones with a KL that counts
    sampled_kl: float = 0.0  # over them
    entropy_tokens: float = 0.0  # of these tokens, the ones with a KL
    sampled_entropy: float = 0.0  # of the student's distributions over them, nats

    def add(self, other: LossStats) -> None:
        """Add another's sums to these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def mark_unreadable(self, rows: int) -> None:
        """Move rows of the last batch that was added from `masked` to `unreadable`."""
        self.samples -= rows
        self.masked -= rows
        self.unreadable += rows

    def loss(self, weight: float) -> float:
        """Mean over all answer tokens of cross-entropy and `weight` times KL; 0 where there is no token."""
        return (self.ce + weight * self.kl) / max(self.tokens, 1.0)

    def over_processes(self, device: Any) -> LossStats:
        """The sum over all processes."""
        values = torch.tensor(astuple(self), dtype=torch.float64, device=device)
        torch.distributed.all_reduce(values)
        return LossStats(*values.tolist())

    def warning_lines(self) -> list[str]:
        """Lines on samples that were cut, and on those that train nothing."""
        lines = []
        if self.cut:
            lines.append(f"{self.cut:.0f} of {self.samples:.0f} samples were cut at --model_max_length; {LONGER}")
        if self.masked:
            lines.append(f"{self.masked:.0f} of {self.samples:.0f} samples had no token of an answer left")
        if self.unmatched:
            lines.append(
                f"{self.unmatched:.0f} answer tokens had no KL though their sample has a teacher: "
                f"rows of student or teacher cut at --model_max_length ({LONGER}), or stored answers that are "
                "tokenized differently now"
            )
        return lines

    def summary_lines(self, distilling: bool) -> list[str]:
        """Lines on what had no part in a run's losses."""
        lines = self.warning_lines()
        if distilling and not self.kl_tokens:
            lines.append("no answer token had a KL in this run")
        for count, name, done in ((self.left_out, "filter", "left out"), (self.capped, "cap", "bounded")):
            if count:
                lines.append(f"--ego2exo_privilege_{name} {done} {count:.0f} of {self.kl_tokens:.0f} tokens")
        if self.sampled:
            lines.append(
                f"on-policy: {self.on_policy / self.batches:.0%} of the batches, {self.sampled:.0f} samples of "
                f"{self.sampled_tokens / self.sampled:.1f} tokens, {self.sampled_ended / self.sampled:.0%} ended"
            )
        return lines

    def log_values(self, config: DistillConfig) -> dict[str, float]:
        """Means, under the names by which the trainer logs them."""
        logs = {} if self.on_policy and not self.ce_tokens else {"loss_ce": self.ce / max(self.ce_tokens, 1.0)}
        if config.on:
            counted = max(self.kl_tokens - self.left_out, 1.0)
            logs |= {"loss_kl": self.kl / counted, "kl_tokens": self.kl_tokens}
            if config.privilege_cap is not None:
                logs["kl_capped"] = self.capped / max(self.kl_tokens, 1.0)
            if config.privilege_filter is not None:
                logs["kl_left_out"] = self.left_out / max(self.kl_tokens, 1.0)
        if config.on_policy:
            logs["on_policy"] = self.on_policy / max(self.batches, 1.0)
        if self.sampled:
            logs["sample_kl"] = self.sampled_kl / max(self.scored, 1.0)
            logs["sample_entropy"] = self.sampled_entropy / max(self.entropy_tokens, 1.0)
            logs["sample_tokens"] = self.sampled_tokens / self.sampled
            logs["sample_ended"] = self.sampled_ended / self.sampled
        logs["answer_tokens"] = self.tokens / max(self.samples, 1.0)
        logs["supervised_share"] = self.tokens / max(self.positions, 1.0)
        return {name: round(value, 6) for name, value in logs.items()}


class AccumulationCounter:
    """Counts the small batches of a global batch, by the rule of transformers' training loop."""

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
        """Count one small batch; whether the optimizer steps after it."""
        self.total += 1
        self.in_epoch += 1
        short_epoch = epoch_length <= self.accumulation and self.in_epoch == epoch_length
        return self.total % self.accumulation == 0 or short_epoch


def correct_gradients(model: torch.nn.Module, factor: float) -> None:
    """Multiply every gradient in place."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)


def plain_loss(
    model: Any, compute: Callable[[], tuple[Tensor, Any]], content: AnswerContent | None = None
) -> tuple[Tensor, LossStats]:
    """LLaVA's own loss, and its sums; zero with a gradient path where no token is supervised, which LLaVA makes nan.

    `compute` runs the (wrapped) model and returns its loss and outputs; `content` is :class:`Distiller`'s.
    """
    with capture_labels(llava_model(model)) as seen:
        loss, outputs = compute()
    stats = _counted(seen, content)
    if not stats.tokens:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[1]
        return logits[..., :0].float().sum(), stats
    stats.ce = float(loss.detach()) * stats.tokens
    return loss, stats


def _counted(seen: ExpandedLabels, content: AnswerContent | None) -> LossStats:
    if seen.labels is None:
        raise Ego2ExoError("a training batch without labels", "batches of LLaVA's own collator")
    supervised = seen.supervised
    own = supervised if content is None else content.own(seen.labels[:, 1:])
    each = supervised.sum(dim=1).tolist()
    return LossStats(
        tokens=sum(each),
        ce_tokens=sum(each),
        batches=1,
        samples=len(each),
        positions=sum(seen.lengths),
        masked=int((~own.any(dim=1)).sum()),
        cut=sum(seen.cut),
    )


class Distiller:
    """Cross-entropy and KL of a student, in one pass of the teacher and one of the student.

    The language model's head is asked at answer positions only. LLaVA asks it everywhere: with thousands of visual
    tokens its float32 logits are the largest tensors of a step, by far, and hardly any of them has a label.

    Without a `teacher` (:mod:`.teachers`) it is cross-entropy alone. `content` separates answers from the template
    around them; without it all that is supervised counts as an answer's.
    """

    def __init__(self, config: DistillConfig, teacher: Any | None = None, content: AnswerContent | None = None) -> None:
        self.config, self.teacher, self.content = config, teacher, content
        measure = (config.divergence, config.kd_temperature, config.jsd_beta, config.privilege_cap)
        self.divergence = Divergence(*measure)

    def loss(self, model: Any, call: Callable[..., Any], inputs: dict[str, Any]) -> tuple[Tensor, LossStats]:
        """The mean over answer tokens, and its sums.

        `model` is the student without the wrapper of distributed training, `call` its forward with it; `teacher` in
        `inputs` is the teacher's part of the batch, absent where no row has one, and `sampled` what the student itself
        has answered (:mod:`.on_policy`): these rows get no cross-entropy.
        """
        batch, sampled = inputs.pop("teacher", None), inputs.pop(SAMPLED, None)
        targets = None if batch is None or self.teacher is None else self._targets(batch, inputs)
        inner = llava_model(model)
        head = inner.get_output_embeddings().forward
        counts: list[tuple[int, int, int]] = []

        def at_head(answers: Answers, hidden: Tensor) -> Tensor:
            known, taught, unmatched = (answers.tokens.new_empty(0), None, 0)
            if targets is not None:
                known, taught, unmatched = targets.align(answers)
            rest = torch.ones(len(answers.tokens), dtype=torch.bool, device=known.device)
            rest[known] = False
            if sampled is not None:
                rest &= ~torch.isin(answers.rows, answers.rows.new_tensor(sampled.rows)).to(rest.device)
            order = torch.cat([known, rest.nonzero()[:, 0]]).to(hidden.device)  # those with targets come first
            counts.append((len(known), unmatched, len(order) - len(known) if sampled is not None else len(order)))
            labels = answers.tokens.to(hidden.device)[order]
            own = sampled is not None
            return distillation_sums(head, hidden[order], labels, taught, self.divergence, sampled=own)

        found, seen = answer_pass(inner, call, inputs, at_head)
        # A sample that ends at once is an answer too.
        stats = _counted(seen, self.content if sampled is None else None)
        stats.kl_tokens, stats.unmatched, stats.ce_tokens = counts[-1]
        stats.ce, stats.kl, stats.capped, stats.left_out, stats.sampled_entropy = found.detach().tolist()
        if sampled is not None:
            # Tokens that cannot be scored, as their row was cut, are no answer tokens of the loss.
            stats.tokens = stats.ce_tokens + stats.kl_tokens
            stats.on_policy, stats.sampled, stats.sampled_ended = 1, len(sampled.rows), sampled.ended
            stats.sampled_tokens, stats.sampled_kl = sampled.tokens, stats.kl
            stats.scored, stats.entropy_tokens = stats.kl_tokens - stats.left_out, stats.kl_tokens
        return (found[0] + self.config.kd_weight * found[1]) / max(stats.tokens, 1), stats

    def _targets(self, batch: dict[str, Any], inputs: dict[str, Any]) -> Any:
        """The teacher's; with `--ego2exo_privilege_filter` also what it says of the exo clip."""
        targets, bound = self.teacher.targets(batch), self.config.privilege_filter
        if bound is None:
            return targets
        exo = self.teacher.targets({**inputs, "rows": list(range(len(inputs["input_ids"])))})
        return replace(targets, exo=exo, bound=bound)


def asks_head_at_answers(model: Any, sharded: bool) -> bool:
    """Whether a run without KL takes its cross-entropy by :class:`Distiller` too; else by :func:`plain_loss`.

    Not where the head's weights are sharded, where the model computes its logits without calling its head, or where
    its own loss holds more than the cross-entropy (the balance of a mixture's experts).
    """
    config = llava_model(model).config
    whole = getattr(config, "pretraining_tp", 1) in (None, 1)
    return whole and not sharded and not getattr(config, "output_router_logits", False)


def scaled_to_reference(loss: Tensor, stats: LossStats) -> Tensor:
    """A batch's mean as its part of a sum over the global batch, in units of `REFERENCE` tokens."""
    return loss * (stats.tokens / REFERENCE)
