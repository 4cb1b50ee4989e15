"""What the trainer `ego2exo` looks at while it trains: each global batch's loss, and the first steps' gradients."""

from __future__ import annotations

from typing import Any

import torch

from ..config import DistillConfig
from .answer_pass import llava_model
from .context import RUN
from .first_steps import GradientWatch, certain_of
from .loss_checks import LossChecks
from .tally import Sums


def watching(trainer: type) -> type:
    """A subclass of the distilling trainer."""

    class WatchingTrainer(trainer):  # type: ignore[misc, valid-type]
        """See the module."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            data = getattr(self.train_dataset, "data_args", None)
            weight = DistillConfig.from_object(self.args).kd_weight
            self.loss_checks = LossChecks(weight, getattr(data, "ego2exo_max_bad", 0))
            self.gradients: GradientWatch | None = None
            self.clip_seen = self.examined = False
            run = RUN.get()
            if run is not None:
                run.trainer = self

        def create_optimizer(self) -> Any:
            """The host's; the weights that it trains are watched from here on."""
            optimizer = super().create_optimizer()
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                self._tell(["first gradients are not looked at: DeepSpeed and FSDP keep them elsewhere"])
            elif self.counted:
                self.gradients = GradientWatch(self.model, certain_of(self.model.config))
            else:
                self._tell(["losses and first gradients are not looked at with DataParallel or label smoothing"])
            return optimizer

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            """One small batch; at the end of a global batch its gradients, in the first steps."""
            if self.gradients is None:
                return super().training_step(model, inputs, *args, **kwargs)
            self.clip_seen = self.clip_seen or self._has_clip(inputs)
            self.examined = False
            loss = super().training_step(model, inputs, *args, **kwargs)
            if self.examined:
                if self.clip_seen:
                    self._tell(self.gradients.look(getattr(self.accelerator, "scaler", None) is not None))
                self.clip_seen = False
                self.gradients = None if self.gradients.done else self.gradients
            return loss

        def _has_clip(self, inputs: Any) -> bool:
            """Whether a batch holds what gets ego tokens."""
            config = llava_model(self.model).config
            wanted = str(getattr(config, "ego2exo_modalities", "video")).split(",")
            return any(kind in wanted for kind in inputs.get("modalities") or ())

        def examine(self, total: Sums) -> None:
            """Look at the sums of a global batch, before the optimizer steps."""
            self.examined = True
            self.loss_checks.look(total, int(self.state.global_step), self.model, self.args)

    return WatchingTrainer
