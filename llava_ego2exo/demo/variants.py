"""How large a demo run is, and which variants it has: one set of numbers for all variants of a run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from ..errors import Ego2ExoError

# What a user would add to LLaVA's command for each variant that is trained; the rest of the command is the same.
EGO = {"ego2exo": True, "ego2exo_num_tokens": 16}
TRAINED: dict[str, dict[str, Any]] = {
    "control": {},
    "distill": {},
    "distill+tokens": EGO,
    "distill+tokens+kl": {**EGO, "ego2exo_kd_weight": 1.0, "ego2exo_teacher": "self"},
    "tokens-only": {**EGO, "ego2exo_visual_tokens": False},
}


@dataclass(frozen=True)
class DemoPlan:
    """Sizes of one run. A demo with other sizes has another base in its cache.

    Args:
        variants: those of `TRAINED`, or of `added`, to train; base and teacher are always asked.
        added: further variants, each a name and the flags that it adds to the command of `distill`.
        encoder_scenes, encoder_steps: of the encoder's pretraining.
        base_scenes, base_steps: of the base's training.
        pairs: paired clips that students learn from.
        steps, batch, rate: of every student's training: optimizer steps, samples a step, learning rate.
        tests: held-out clips that questions are asked about.
    """

    variants: tuple[str, ...] = ("control", "distill", "distill+tokens")
    added: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    encoder_scenes: int = 1500
    encoder_steps: int = 450
    base_scenes: int = 2000
    base_steps: int = 400
    pairs: int = 1500
    steps: int = 500
    batch: int = 64
    rate: float = 4e-3
    tests: int = 200

    def flags(self, name: str) -> dict[str, Any]:
        """What one variant adds to the common training command."""
        return TRAINED[name] if name in TRAINED else dict(dict(self.added)[name])


def added_variant(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A variant as the command line gives it, ``NAME: --flag value ...``.

    Raises:
        Ego2ExoError: it has another form, or the name is taken.
    """
    name, _, rest = text.partition(":")
    name, words = name.strip(), shlex.split(rest)
    flags, values = words[::2], words[1::2]
    free = re.fullmatch(r"[\w.+-]+", name) and name not in {*TRAINED, "base", "teacher", "chance"}
    if not (free and flags and len(flags) == len(values) and all(flag.startswith("--") for flag in flags)):
        raise Ego2ExoError(
            f"--add {text!r}", "'NAME: --flag value ...', NAME a new one of letters, digits, and . + - _",
            "for example --add 'tokens-slow: --ego2exo True --ego2exo_lr 0.001'",
        )  # fmt: skip
    return name, tuple((flag.removeprefix("--"), value) for flag, value in zip(flags, values, strict=True))


# With every variant as many steps as made the documents' table; one seed of the few has to end within minutes.
FULL = DemoPlan(tuple(TRAINED))
DEFAULT = DemoPlan(steps=400)
QUICK = DemoPlan(("control", "distill"), pairs=1000, steps=280, tests=100)
