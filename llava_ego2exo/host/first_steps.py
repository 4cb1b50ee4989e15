"""Whether gradients reach every weight that is meant to train: watched in the first steps that see a clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Ego2ExoError
from ..runs.listing import listed
from .projector import CHILD

# LoRA's first half has gradient 0 until a step has moved the second from 0, which a warm-up from 0 puts off by one.
STEPS = 8
_OVERFLOWS = 30


class GradientWatch:
    """Looks at the gradients of the first steps, and at none once each weight had one.

    Args:
        model: in training.
        certain: which trainable weights every batch with a clip reaches; others may wait, as an expert that no token
            is sent to, or a layer of the tower behind the one that is read.
    """

    def __init__(self, model: nn.Module, certain: Any) -> None:
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.waiting = dict(self.trainable)
        self.certain = certain
        self.looks = self.overflows = 0

    @property
    def done(self) -> bool:
        """Whether there is nothing left to look at."""
        return not self.waiting

    def look(self, scaled: bool) -> list[str]:
        """Look at the gradients of a global batch that holds a clip, before the optimizer uses them.

        Args:
            scaled: float16's loss scaling is on: it skips a step that overflows and goes on with a smaller scale.

        Returns:
            What to tell, once all is known.

        Raises:
            Ego2ExoError: a gradient is not finite, or weights that must learn get none.
        """
        seen = self.trainable if self.looks < 2 else self.waiting
        largest = _largest({name: p.grad for name, p in seen.items() if p.grad is not None and p.grad.numel()})
        broken = [name for name, value in largest.items() if value - value != 0]
        if broken and scaled and self.overflows < _OVERFLOWS:
            self.overflows += 1
            return []
        if broken:
            raise _not_finite(broken, self.looks + self.overflows + 1, scaled)
        self.looks += 1
        self._require([name for name, p in self.waiting.items() if p.grad is None], "no gradient")
        self.waiting = {name: p for name, p in self.waiting.items() if not largest.get(name)}
        if self.waiting and self.looks < STEPS:
            return []
        return self._finish()

    def _require(self, names: list[str], what: str) -> None:
        lost = [name for name in names if self.certain(name)]
        if lost:
            raise Ego2ExoError(
                f"{what} reached {len(lost)} of {len(self.trainable)} trainable tensors in the first {self.looks} "
                f"step(s) with a clip: {listed(lost)}",
                "a gradient other than 0 for every weight that trains",
                "look for a learning rate of 0 (--learning_rate, --mm_projector_lr, --ego2exo_lr), samples without an "
                "answer, or frozen parts that should train; else report this as a bug",
            )

    def _finish(self) -> list[str]:
        silent = list(self.waiting)
        self._require(silent, "no gradient other than 0")
        self.waiting = {}
        text = f"gradients in the first {self.looks} step(s) with a clip: all finite, and other than 0 for "
        text += f"{len(self.trainable) - len(silent)} of {len(self.trainable)} trainable tensors"
        return [text + (f"; none yet for {listed(silent)}" if silent else "")]


def _largest(gradients: dict[str, Tensor]) -> dict[str, float]:
    """The largest absolute value of each; one wait for the device in all."""
    if not gradients:
        return {}
    values = torch.stack([g.detach().abs().amax().float() for g in gradients.values()])
    return dict(zip(gradients, values.tolist(), strict=True))


def _not_finite(names: list[str], step: int, scaled: bool) -> Ego2ExoError:
    where = "in every one of the first steps" if scaled else f"in step {step} with a clip"
    return Ego2ExoError(
        f"the gradients of {len(names)} tensors are not finite {where}: {listed(names)}",
        "finite gradients",
        "use --bf16 True in place of --fp16 True"
        if scaled
        else "lower the learning rates; with --fp16 True use --bf16",
    )


def certain_of(config: Any) -> Any:
    """Which trainable weights a batch with a clip always reaches.

    Args:
        config: the model's.
    """
    ordinary = bool(getattr(config, "ego2exo_visual_tokens", True))

    def certain(name: str) -> bool:
        if "expert" in name or "vision_tower" in name:
            return False
        if "mm_projector" in name:
            return ordinary or f"mm_projector.{CHILD}" in name
        return "lora_" in name

    return certain
