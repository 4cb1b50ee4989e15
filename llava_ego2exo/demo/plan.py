"""How large a demo run is, and which variants it has: one set of numbers for all variants of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What a user would add to LLaVA's command for each variant that is trained; the rest of the command is the same.
EGO = {"ego2exo": True, "ego2exo_num_tokens": 16}
KL = {"ego2exo_kd_weight": 1.0, "ego2exo_teacher": "self"}
TRAINED: dict[str, dict[str, Any]] = {
    "control": {},
    "distill": {},
    "distill+tokens": EGO,
    "distill+tokens+kl": {**EGO, **KL},
    "tokens-only": {**EGO, "ego2exo_visual_tokens": False},
}
DEFAULT_VARIANTS, FULL_VARIANTS = ("control", "distill", "distill+tokens"), tuple(TRAINED)


@dataclass(frozen=True)
class Plan:
    """Sizes of one run. A demo with other sizes has another base in its cache.

    Args:
        variants: those of `TRAINED` to train; base and teacher are always asked.
        seeds: how many times everything is done.
        encoder_scenes, encoder_steps: of the encoder's pretraining.
        base_scenes, base_steps: of the base's training.
        pairs: paired clips that students learn from.
        steps, batch, rate: of every student's training: optimizer steps, samples a step, learning rate.
        tests: held-out clips that questions are asked about.
    """

    variants: tuple[str, ...] = DEFAULT_VARIANTS
    seeds: int = 1
    encoder_scenes: int = 1500
    encoder_steps: int = 450
    base_scenes: int = 2000
    base_steps: int = 400
    pairs: int = 1500
    steps: int = 500
    batch: int = 64
    rate: float = 4e-3
    tests: int = 200


DEFAULT = Plan()
QUICK = Plan(("control", "distill"), pairs=1000, steps=280, tests=100)
