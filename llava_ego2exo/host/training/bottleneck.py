"""The bottleneck: a first stage of training in which the language model gets the ego tokens without the ordinary ones.

Beside ordinary visual tokens, which the language model reads already, new tokens are ignored (arXiv 2512.21218 found
the same for latent tokens). A stage without them makes it read the ego tokens; then both are passed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from ...config import PREFIX, Ego2ExoConfig
from ...errors import refuse
from ...run_config import BottleneckConfig
from ..hooks.install import substituted
from ..model.answer_tokens import llava_model
from ..settings import Settings
from .monitor import group_name

FLAG = f"--{PREFIX}bottleneck"


def check_bottleneck(settings: Settings, flags: Ego2ExoConfig, deepspeed: dict[str, Any]) -> BottleneckConfig:
    """The run's bottleneck; `deepspeed` is its DeepSpeed config, empty without one.

    Raises:
        Ego2ExoError: the flag is out of range, or cannot work with the others.
    """
    config = BottleneckConfig.from_object(SimpleNamespace(**settings.values))
    trainer, schedule = settings["trainer_type"], settings["lr_scheduler_type"]
    schedule, given = getattr(schedule, "value", schedule), f"{FLAG} {config.bottleneck} with"
    cases = (
        (not flags.visual_tokens, f"{given} --{PREFIX}visual_tokens False: no ordinary visual tokens come after it",
         "one of them", f"pass --{PREFIX}visual_tokens True, or leave {FLAG} out"),
        (trainer not in (None, "ego2exo"), f"{given} --trainer_type {trainer}, which has no stages", "ego2exo",
         "leave it out"),
        (schedule == "reduce_lr_on_plateau", f"{given} --lr_scheduler_type {schedule}, which cannot begin anew",
         "a schedule over a number of steps, as cosine", "give another"),
        ("scheduler" in deepspeed, f"{given} a scheduler in --deepspeed {settings['deepspeed']}, which cannot begin "
         "anew", "--lr_scheduler_type, without `scheduler` in that file", "remove it from the file"),
    )  # fmt: skip
    refuse(*((config.bottleneck and holds, *texts) for holds, *texts in cases))  # type: ignore[arg-type]
    return config


def two_stages(first: Callable[[int], float], rest: Callable[[int], float], border: int) -> Callable[[int], float]:
    """A factor of the learning rate by the number of steps: `first` over `border` steps, then `rest` from its start."""
    return lambda step: first(step) if step < border else rest(step - border)


class BottleneckMixin:
    """Before :class:`~..trainer.DistillingMixin`: the two stages; without a bottleneck nothing differs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bottleneck = BottleneckConfig.from_object(self.args)
        for name, value in self.bottleneck.to_dict().items():
            setattr(self.model.config, name, value)
        if self.bottleneck.bottleneck:
            self.add_callback(BorderCallback(self))

    @property
    def border(self) -> int:
        """Optimizer steps of the first stage, once the training loop has begun."""
        return self.bottleneck.steps(self.state.max_steps)

    @property
    def in_bottleneck(self) -> bool:
        """Whether the next optimizer step is one of the first stage."""
        return self.state.global_step < self.border

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One small batch; in the bottleneck without ordinary visual tokens, which the saved config still names.

        The ordinary projector's gradients, all 0, are dropped: in Adam's averages they would make its first steps after
        the border several times too large.
        """
        if not self.in_bottleneck:
            return super().training_step(*args, **kwargs)
        inner = llava_model(self.model)
        with substituted(inner.config, **{f"{PREFIX}visual_tokens": False}):
            loss = super().training_step(*args, **kwargs)
        for name, parameter in inner.named_parameters():
            if group_name(name) == "mm_projector" and not self.is_deepspeed_enabled:  # which has moved them elsewhere
                parameter.grad = None
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The host's, over the bottleneck's steps and then anew over the rest."""
        border = self.bottleneck.steps(num_training_steps)
        if not border or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        optimizer, parts = self.optimizer if optimizer is None else optimizer, []
        for steps in (border, num_training_steps - border):
            self.lr_scheduler = None
            # A schedule sets its optimizer's rate when it is made.
            stand_in = torch.optim.SGD([torch.zeros(1)], lr=optimizer.defaults["lr"])
            parts.append(super().create_scheduler(steps, stand_in).lr_lambdas[0])
        self.lr_scheduler = LambdaLR(optimizer, two_stages(*parts, border))
        return self.lr_scheduler

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The host's, with the stage of the step that was just taken."""
        if "loss" in logs and self.border:
            logs["bottleneck"] = int(self.state.global_step <= self.border)
        super().log(logs, *args, **kwargs)


class BorderCallback(TrainerCallback):
    """Reports the bottleneck's beginning and its end, after which the ordinary projector must get gradients too."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, _args: Any, state: Any, *_: Any, **_kwargs: Any) -> None:
        """Report how many steps it has."""
        text = f"bottleneck: in {self.trainer.border} of {state.max_steps} steps, from the first, the ordinary visual"
        self.trainer.report([f"{text} tokens are left out"])

    def on_step_end(self, _args: Any, state: Any, *_: Any, **_kwargs: Any) -> None:
        """Report its last step."""
        if state.global_step == self.trainer.border:
            self.trainer.report([f"bottleneck ended with step {state.global_step}: both kinds of tokens are passed"])
            self.trainer.monitor.watch_gradients()
