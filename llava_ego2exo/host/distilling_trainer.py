"""What the trainer `ego2exo` adds to LLaVA's: the KL, losses that are right for a global batch, and their logs."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..config import DistillConfig
from .answer_content import AnswerContent
from .distilling import Distiller, asks_head_at_answers, plain_loss, referred
from .kl_teachers import build_teacher
from .loss_plots import plot_losses
from .tally import REFERENCE, Steps, Sums, correct_gradients


def answer_content(trainer: Any) -> AnswerContent | None:
    """Of a trainer's tokenizer and LLaVA's current template; None where it was made without a tokenizer."""
    from llava import conversation

    tokenizer = getattr(trainer, "processing_class", None) or getattr(trainer, "tokenizer", None)
    return None if tokenizer is None else AnswerContent(tokenizer, conversation.default_conversation.roles[1])


def _seed_order(accelerator: Any) -> None:
    """Draw the order of samples from the seed alone, as transformers does and LLaVA-NeXT's copy of it does not.

    Otherwise it depends on the number of processes, so that two do not train as one.
    """
    config = getattr(accelerator, "dataloader_config", None)
    if config is not None:
        config.use_seedable_sampler = True


def distilling(llava_trainer: type) -> type:
    """A subclass of the host's trainer."""
    from transformers import TrainerCallback

    class Begins(TrainerCallback):
        """Tells a trainer where a run and an epoch begin."""

        def __init__(self, trainer: Any) -> None:
            self.trainer = trainer

        def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.trainer.steps.start_run()
            self.trainer.sums = Sums()

        def on_epoch_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.trainer.steps.start_epoch()

    class DistillingTrainer(llava_trainer):  # type: ignore[misc, valid-type]
        """LLaVA's trainer; at weight 0, with one process and no accumulation, its loss up to rounding."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            _seed_order(self.accelerator)
            config = DistillConfig.from_object(self.args)
            for name, value in config.to_dict().items():
                setattr(self.model.config, name, value)
            self.content = answer_content(self)
            self.distiller = Distiller(config, build_teacher(config, self) if config.on else None, self.content)
            self.at_answers = config.on or asks_head_at_answers(self.model, self.sharded)
            self.steps = Steps(self.args.gradient_accumulation_steps)
            self.add_callback(Begins(self))
            self.sums, self.unlogged, self.whole = Sums(), Sums(), Sums()
            self.split = self.args.world_size * self.args.gradient_accumulation_steps
            self._tell_if_not_exact()

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

        def _tell_if_not_exact(self) -> None:
            if self.split > 1 and not self.exact and self.is_world_process_zero():
                reason = "under DeepSpeed" if self.is_deepspeed_enabled else "with label smoothing or DataParallel"
                text = "the loss is the mean over small batches of their means, not over the global batch's tokens"
                self._tell([f"{reason} {text}"])

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """One small batch; its sums are kept until the optimizer steps."""
            if not model.training or return_outputs or not self.counted:
                return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
            if self.at_answers:
                loss, sums = self.distiller.loss(self.model, model, inputs)
            else:
                plain = functools.partial(super().compute_loss, model, inputs, return_outputs=True, **kwargs)
                loss, sums = plain_loss(self.model, plain, self.content)
            self.sums.add(sums)
            return referred(loss, sums) if self.exact else loss

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            """One small batch, and at the end of a global batch its correction."""
            last = self.steps.next_is_last(len(self.callback_handler.train_dataloader))
            if last and not self.accelerator.sync_gradients:
                self._synchronize(model)
            loss = super().training_step(model, inputs, *args, **kwargs)
            if not self.counted:
                return loss
            if not last:
                return torch.zeros_like(loss) if self.exact else loss
            total, self.sums = self.sums, Sums()
            if self.args.world_size > 1:
                total = total.over_processes(self.args.device)
            if not self.whole.samples:
                self._tell([f"first batch: {line}" for line in total.short()])
            self.unlogged.add(total)
            self.whole.add(total)
            self.examine(total)
            if not self.exact:
                return loss
            correct_gradients(model, self.split * REFERENCE / max(total.tokens, 1.0))
            return torch.full_like(loss, total.loss(DistillConfig.from_object(self.args).kd_weight))

        def examine(self, total: Sums) -> None:
            """For what looks at the sums of a global batch before the optimizer steps."""

        def _synchronize(self, model: Any) -> None:
            """An epoch shorter than the accumulation steps all the same; transformers would then not synchronize."""
            self.accelerator.gradient_state._set_sync_gradients(True)
            if hasattr(model, "require_backward_grad_sync"):
                model.require_backward_grad_sync = True

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            """The host's, with ours beside the loss."""
            if "loss" in logs and self.unlogged.samples:
                logs.update(self.unlogged.logged(self.distiller.config.on))
                self.unlogged = Sums()
            super().log(logs, *args, **kwargs)

        def train(self, *args: Any, **kwargs: Any) -> Any:
            """The host's; then the plots, and what had to be left out.

            Raises:
                Ego2ExoError: no sample had anything left of its answers.
            """
            result = super().train(*args, **kwargs)
            self._tell(self.whole.told(self.distiller.config.on))
            self.whole.require_lessons()
            if self.is_world_process_zero():
                self._tell([plot_losses(self.state.log_history, self.args.output_dir)])
            return result

        def _tell(self, lines: list[str]) -> None:
            if self.is_world_process_zero():
                for line in lines:
                    print(f"ego2exo: {line}", flush=True)  # noqa: T201

    return DistillingTrainer
