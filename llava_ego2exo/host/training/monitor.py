"""Stops a run that trains on numbers by accident: a loss that cannot be right, or weights that no gradient reaches."""

from __future__ import annotations

from collections import Counter
from math import isfinite
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from ...common.text import aligned_table, shorten_list
from ...errors import Ego2ExoError
from ..model.answer_tokens import llava_model
from ..model.projector import CHILD
from .losses import LONGER, LossStats

# Of the training file's samples, the share that may have no answer token left.
MASKED_SHARE = 0.1
# So many samples without one of them having an answer are no chance of the shuffle.
ALL_MASKED = 64
# LoRA's first half has gradient 0 until a step has moved the second from 0, which a warm-up from 0 puts off by one.
STEPS = 8


class TrainingMonitor(TrainerCallback):
    """Checks each global batch's loss, and the gradients of the first steps, before the optimizer uses them."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.gradients: FirstGradientCheck | None = None
        self.epoch = LossStats()

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Watch the gradients from the first step."""
        self.watch_gradients()

    def watch_gradients(self) -> None:
        """Watch those of the next steps, where this process holds them."""
        if not self.trainer.is_deepspeed_enabled and not self.trainer.is_fsdp_enabled:
            self.gradients = FirstGradientCheck(self.trainer.model, self.trainer.in_bottleneck)

    def on_epoch_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Count the samples of an epoch, which is the whole training file, in whatever order."""
        self.epoch = LossStats()

    def on_train_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse to end as if all had gone well, before the model is saved, where nothing was learned from."""
        total = self.trainer.whole
        if total.unreadable and not total.samples:
            raise Ego2ExoError("no sample of this run can be read", "files that decode", "fix the files")
        if total.samples and total.masked == total.samples:
            raise _no_answers(total)

    def check(self, stats: LossStats, clip: bool) -> None:
        """Check one global batch; `clip`: this process's part of it holds an input with ego tokens.

        Raises:
            Ego2ExoError: naming the fault; the optimizer has not stepped.
        """
        self._check_loss(stats, int(self.trainer.state.global_step) + 1)
        if self.gradients is None or not clip:
            return
        self.gradients.check(scaled=getattr(self.trainer.accelerator, "scaler", None) is not None)
        if not self.gradients.pending:
            steps = self.gradients.steps
            parts = "LoRA, projector and ego tokens" if self.gradients.visual else "LoRA and ego tokens"
            stage = " in the bottleneck" if self.trainer.in_bottleneck else ""
            self.trainer.report([f"{parts} have gradients{stage}, after {steps} step(s) with a clip"])
            self.gradients = None

    def _check_loss(self, stats: LossStats, step: int) -> None:
        loss = stats.loss(self.trainer.distiller.config.kd_weight)
        if not isfinite(loss):
            raise self._not_finite_error(stats, step)
        self.epoch.add(stats)
        require_answers(self.epoch, len(self.trainer.train_dataset))
        if stats.ce_tokens + stats.kl_tokens > stats.left_out and loss == 0:
            raise Ego2ExoError(
                f"the loss of step {step} is exactly 0 over {stats.tokens:.0f} answer tokens",
                "a loss above 0",
                "check --version and the answers, or lower --learning_rate",
            )

    def _not_finite_error(self, stats: LossStats, step: int) -> Ego2ExoError:
        model, args = self.trainer.model, self.trainer.args
        broken = [n for n, p in model.named_parameters() if p.is_floating_point() and not bool(torch.isfinite(p).all())]
        cause = f"{len(broken)} weights are not finite: {shorten_list(broken)}" if broken else "all weights are finite"
        return Ego2ExoError(
            f"the loss of step {step} is not finite (cross-entropy {stats.ce:.4g}, KL {stats.kl:.4g}, "
            f"{stats.tokens:.0f} answer tokens); {cause}",
            "a finite loss",
            f"lower --learning_rate {args.learning_rate}, use --bf16 in place of --fp16, or check the base checkpoint",
        )


def require_answers(seen: LossStats, samples: int) -> None:
    """Refuse a training file in which too many samples have no answer token left to train on.

    The verdict on what was `seen` of an epoch is one of the whole file: it does not depend on the order of its samples.

    Raises:
        Ego2ExoError: more than `MASKED_SHARE` of the file, or each of the first `ALL_MASKED` samples.
    """
    if seen.masked > MASKED_SHARE * samples or ALL_MASKED <= seen.samples == seen.masked:
        raise _no_answers(seen)


def _no_answers(seen: LossStats) -> Ego2ExoError:
    return Ego2ExoError(
        f"{seen.masked:.0f} of {seen.samples:.0f} samples seen have no answer token left to train on; {seen.cut:.0f} "
        "were cut at --model_max_length",
        f"at most {MASKED_SHARE:.0%} of the training file",
        f"{LONGER}, or remove these samples" if seen.cut else "give --version the base's conversation template",
    )


class FirstGradientCheck:
    """Checks gradients in the first steps, until each weight that must have one has had one.

    Weights that a batch with a clip need not reach are not expected to: experts, and a tuned tower's last layers; nor
    is the ordinary projector where its visual tokens are not in the input.
    """

    def __init__(self, model: nn.Module, in_bottleneck: bool = False) -> None:
        self.visual = getattr(llava_model(model).config, "ego2exo_visual_tokens", True) and not in_bottleneck
        reached = ("lora_", "mm_projector" if self.visual else f"mm_projector.{CHILD}")
        self.pending = {
            name: p
            for name, p in model.named_parameters()
            if p.requires_grad
            and any(part in name for part in reached)
            and not any(part in name for part in ("expert", "vision_tower"))
        }
        self.steps = 0

    def check(self, scaled: bool = False) -> None:
        """Check a global batch with a clip; where `scaled`, float16's loss scaling skips steps that overflow.

        Raises:
            Ego2ExoError: a gradient is not finite, or a weight gets none.
        """
        self.steps += 1
        largest = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in self.pending.items()}
        broken = [name for name, value in largest.items() if not isfinite(value)]
        if broken and not scaled:
            raise Ego2ExoError(
                f"the gradients of {len(broken)} tensors are not finite in step {self.steps} with a clip: "
                f"{shorten_list(broken)}",
                "finite gradients",
                "lower the learning rates",
            )
        unreached = [name for name, p in self.pending.items() if p.grad is None]
        self.pending = {name: p for name, p in self.pending.items() if not largest[name]}
        unreached = list(self.pending) if self.steps >= STEPS else unreached
        if unreached:
            raise Ego2ExoError(
                f"no gradient reached {len(unreached)} trainable tensors in {self.steps} step(s) with a clip: "
                f"{shorten_list(unreached)}",
                "a gradient other than 0 for every trainable weight",
                "check for a learning rate of 0 (--learning_rate, --mm_projector_lr, --ego2exo_lr) and, in the log's "
                "kl_capped and kl_left_out, for a privilege cap or filter that no token passes; else report a bug",
            )


# The optimizer's parameter groups: split for the ego tokens, checked, and shown as a table.


def group_name(parameter: str) -> str:
    """The part of the model a parameter belongs to, by its name."""
    parts = {"lora_": "lora", f"mm_projector.{CHILD}": CHILD}
    parts |= {name: name for name in ("mm_projector", "vision_resampler", "vision_tower")}
    return next((name for key, name in parts.items() if key in parameter), "language_model")


def split_ego_groups(model: nn.Module, optimizer: Any, rate: float) -> None:
    """Give the ego tokens' parameters groups of their own, at `rate`.

    Groups that LLaVA leaves empty go: DeepSpeed drops them too, and the scheduler would then count one rate too many.
    """
    ego = {id(p) for n, p in model.named_parameters() if group_name(n) == CHILD}
    groups = []
    for group in optimizer.param_groups:
        own = [p for p in group["params"] if id(p) in ego]
        group["params"] = [p for p in group["params"] if id(p) not in ego]
        groups += [group] if group["params"] else []
        if own:
            groups.append({**group, "params": own, "lr": rate})
    optimizer.param_groups[:] = groups


def check_groups(model: nn.Module, optimizer: Any, lora: bool) -> None:
    """Every trainable parameter is in exactly one group, frozen ones in none.

    Raises:
        Ego2ExoError: naming the parameters; also where LoRA is on and weights of the language model itself train.
    """
    counts = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    wrong = [n for n, p in model.named_parameters() if counts[id(p)] != int(p.requires_grad)]
    if wrong:
        raise Ego2ExoError(f"not in exactly one optimizer group: {', '.join(wrong[:5])}", "", "report this as a bug")
    base = [n for n, p in model.named_parameters() if p.requires_grad and group_name(n) == "language_model"]
    if lora and base:
        raise Ego2ExoError(
            f"--lora_enable True, and {len(base)} weights of the language model itself would train: {base[0]}, ...",
            "LoRA weights alone",
            "leave --unfreeze_language_model and modules_to_save out",
        )


def trainable_table(model: nn.Module, optimizer: Any) -> list[str]:
    """Lines of a table: trainable parameters per part of the model and optimizer group."""
    names = {id(p): n for n, p in model.named_parameters()}
    sizes: dict[tuple[str, float, float], list[int]] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            key = (group_name(names[id(p)]), group["lr"], group.get("weight_decay", 0.0))
            sizes.setdefault(key, []).append(getattr(p, "ds_numel", p.numel()))
    rows = [
        (name, len(counts), f"{sum(counts):,}", f"{rate:.2g}", f"{decay:.2g}")
        for (name, rate, decay), counts in sorted(sizes.items())
    ]
    return aligned_table(("trainable", "tensors", "parameters", "lr", "decay"), rows).splitlines()
