"""The registered trainer `ego2exo`: LLaVA's, with the KL, losses that are right for a global batch, and checks."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..common.processes import Ranks
from ..registry import TRAINERS
from ..run_config import DistillConfig
from ..video.cache import cache_stats, format_stats
from .checkpoint.config import torch_dtype
from .model.answer_tokens import AnswerContent, llava_model
from .resume.state import ResumeMixin
from .settings import RUN
from .training.bottleneck import BottleneckMixin
from .training.dataset import get_reader
from .training.losses import (
    REFERENCE,
    AccumulationCounter,
    Distiller,
    LossStats,
    asks_head_at_answers,
    correct_gradients,
    plain_loss,
    scaled_to_reference,
)
from .training.monitor import TrainingMonitor, check_groups, split_ego_groups, trainable_table
from .training.on_policy import OnPolicyMixin
from .training.plots import plot_losses
from .training.teachers import build_teacher
from .training.unreadable_samples import SkipUnreadableMixin


def wrap_trainer(original: type) -> type:
    """LLaVA's `LLaVATrainer` name in its train module; calling it builds the registered trainer where one is meant.

    It stays a class, so that code which subclasses or checks against that name keeps working.
    """

    class Lookup(type(original)):  # type: ignore[misc]
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is not found:
                return super().__call__(*args, **kwargs)
            model, given = kwargs.get("model"), kwargs.get("args")
            dtype, name = getattr(given, "vision_tower_dtype", None), getattr(given, "trainer_type", None)
            if dtype is not None:  # LLaVA has cast the tower to half precision, which is slow without a GPU
                model.get_model().get_vision_tower().to(torch_dtype(dtype, "--vision_tower_dtype"))
            if getattr(model.config, "ego2exo", False):
                _record_reading(model.config, kwargs.get("train_dataset"))
                name = name or "ego2exo"
            return (TRAINERS.get(name)(original) if name else original)(*args, **kwargs)

    found = Lookup(original.__name__, (original,), {"__wrapped__": original, "__module__": original.__module__})
    return found


def _record_reading(config: Any, dataset: Any) -> None:
    """How a student is given its clips, which llava-torch does not write to its config."""
    for name in ("add_time_instruction", "force_sample"):
        value = getattr(getattr(dataset, "data_args", None), name, None)
        if value is not None:
            setattr(config, name, value)


class DistillingMixin:
    """For LLaVA's trainer; at weight 0, with one process and no accumulation, its loss is LLaVA's up to rounding."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        loading = getattr(self.accelerator, "dataloader_config", None)
        if loading is not None:
            # As transformers does and LLaVA-NeXT's copy of it does not: else the order of samples depends on the number
            # of processes.
            loading.use_seedable_sampler = True
        config = DistillConfig.from_object(self.args)
        for name, value in config.to_dict().items():
            setattr(self.model.config, name, value)
        self.content = self._answer_content()
        self.distiller = Distiller(config, build_teacher(config, self) if config.on else None, self.content)
        self.at_answers = config.on or asks_head_at_answers(self.model, self.sharded)
        self.steps = AccumulationCounter(self.args.gradient_accumulation_steps)
        self.stats, self.unlogged, self.whole = LossStats(), LossStats(), LossStats()
        self.split = self.args.world_size * self.args.gradient_accumulation_steps
        self.clip_seen = False
        self.monitor = TrainingMonitor(self)
        self.add_callback(self.monitor)
        run = RUN.get()
        if run is not None:
            run.trainer = self
        if not self.counted:
            self.report(["losses and first gradients are not checked with DataParallel or label smoothing"])
        if self.split > 1 and not self.exact:
            reason = "under DeepSpeed" if self.is_deepspeed_enabled else "with label smoothing or DataParallel"
            self.report([f"{reason} the loss is the mean of small batches' means, not the global batch's mean"])

    def _answer_content(self) -> AnswerContent | None:
        """By the tokenizer and LLaVA's current template; None for a trainer that was made without a tokenizer."""
        from llava import conversation

        tokenizer = getattr(self, "processing_class", None) or getattr(self, "tokenizer", None)
        return None if tokenizer is None else AnswerContent(tokenizer, conversation.default_conversation.roles[1])

    @property
    def sharded(self) -> bool:
        """Whether no process holds all weights: ZeRO-3 or FSDP."""
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None) if self.is_deepspeed_enabled else None
        return self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)

    @property
    def counted(self) -> bool:
        """Whether batches are seen whole; several GPUs in one process cut them up inside the model."""
        return self.args.n_gpu <= 1 and self.label_smoother is None

    @property
    def exact(self) -> bool:
        """Whether gradients are corrected to the global batch's mean over tokens."""
        return self.split > 1 and self.counted and not self.is_deepspeed_enabled

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """One small batch; its statistics are kept until the optimizer steps."""
        if not model.training or return_outputs or not self.counted:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        if self.at_answers:
            loss, stats = self.distiller.loss(self.model, model, inputs)
        else:
            plain = functools.partial(super().compute_loss, model, inputs, return_outputs=True, **kwargs)
            loss, stats = plain_loss(self.model, plain, self.content)
        self.stats.add(stats)
        return scaled_to_reference(loss, stats) if self.exact else loss

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One small batch, and at the end of a global batch its checks and its correction."""
        last = self.steps.next_is_last(len(self.callback_handler.train_dataloader))
        if last and not self.accelerator.sync_gradients:
            self._synchronize(model)
        self.clip_seen = self.clip_seen or self._has_clip(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not self.counted:
            return loss
        if not last:
            return torch.zeros_like(loss) if self.exact else loss
        stats, self.stats = self.stats, LossStats()
        clip, self.clip_seen = self.clip_seen, False
        if self.args.world_size > 1:
            stats = stats.over_processes(self.args.device)
        if not self.whole.samples:
            self.report([f"first batch: {line}" for line in stats.warning_lines()])
        self.unlogged.add(stats)
        self.whole.add(stats)
        self.check_batch(stats, clip)
        if not self.exact:
            return loss
        correct_gradients(model, self.split * REFERENCE / max(stats.tokens, 1.0))
        return torch.full_like(loss, stats.loss(self.distiller.config.kd_weight))

    def check_batch(self, stats: LossStats, clip: bool) -> None:
        """Check a global batch before the optimizer steps; see :meth:`.TrainingMonitor.check`."""
        self.monitor.check(stats, clip)

    def _has_clip(self, inputs: Any) -> bool:
        """Whether a small batch holds what gets ego tokens."""
        wanted = str(getattr(llava_model(self.model).config, "ego2exo_modalities", "video")).split(",")
        return any(kind in wanted for kind in inputs.get("modalities") or ())

    def _synchronize(self, model: Any) -> None:
        """At the end of an epoch that is shorter than the accumulation, where transformers would not."""
        self.accelerator.gradient_state._set_sync_gradients(True)
        if hasattr(model, "require_backward_grad_sync"):
            model.require_backward_grad_sync = True

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The host's, with the terms of the loss beside it."""
        if "loss" in logs and self.unlogged.samples:
            logs.update(self.unlogged.log_values(self.distiller.config))
            self.unlogged = LossStats()
        super().log(logs, *args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The host's; then a summary of losses and the frame cache, and the plots."""
        result = super().train(*args, **kwargs)
        self.report(self.whole.summary_lines(self.distiller.config.on))
        reader = get_reader(getattr(self.train_dataset, "data_args", None))
        ranks = Ranks(self.args.process_index, self.args.world_size)
        self.report(format_stats(ranks.gather(cache_stats(reader))))
        if self.is_world_process_zero():
            self.report([plot_losses(self.state.log_history, self.args.output_dir)])
        return result

    def report(self, lines: list[str]) -> None:
        """Print lines, on the first process alone."""
        if self.is_world_process_zero():
            for line in lines:
                print(f"ego2exo: {line}", flush=True)  # noqa: T201


def build_trainer(llava_trainer: type) -> type:
    """The trainer `ego2exo`: LLaVA's, which distils and resumes, with its optimizer groups split, checked and shown."""

    class Ego2ExoTrainer(  # type: ignore[misc, valid-type]
        SkipUnreadableMixin, ResumeMixin, BottleneckMixin, OnPolicyMixin, DistillingMixin, llava_trainer
    ):
        def create_optimizer(self) -> Any:
            super().create_optimizer()
            # Not the projector's rate: recipes keep that far below LoRA's, and these weights have as much to learn.
            rate = getattr(self.model.config, "ego2exo_lr", None) or self.args.learning_rate
            split_ego_groups(self.model, self.optimizer, rate)
            check_groups(self.model, self.optimizer, lora=getattr(self.args, "lora_enable", False))
            self.report(trainable_table(self.model, self.optimizer))
            return self.optimizer

    return Ego2ExoTrainer


TRAINERS.add("ego2exo", build_trainer)
