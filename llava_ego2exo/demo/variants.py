"""How large a demo run is, and which variants it has: one set of numbers for all variants of a run."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import Ego2ExoError

FRAMES = 4  # of a clip that a model sees
POOLED = {32: "2x4", 16: "2x2", 8: "1x2", 4: "1x1"}  # visual tokens of a clip -> rows and columns of a frame
GRIDS = {32: "2x4x4", 16: "2x2x4", 8: "2x2x2", 4: "2x1x2"}


def _tokens(count: int) -> dict[str, Any]:
    return {"ego2exo": True, "ego2exo_num_tokens": count, "ego2exo_grid": GRIDS[count], "ego2exo_lr": 4e-3}


# What a user would add to LLaVA's command for each variant that is trained; the rest of the command is the same.
STUDENTS: dict[str, dict[str, Any]] = {
    "control": {},
    "distill": {},
    **{f"pooled-{count}": {"ego2exo_pool": pool} for count, pool in POOLED.items()},
    **{f"tokens-{count}": {**_tokens(count), "ego2exo_visual_tokens": False} for count in GRIDS},
    "distill+tokens-16": _tokens(16),
    "distill+on-policy": {
        **_tokens(16),
        "ego2exo_kd_weight": 1.0,
        "ego2exo_on_policy": 0.5,
        "ego2exo_divergence": "reverse",
        "ego2exo_sample_tokens": 40,
    },
    "pooled-8+tokens-16": {**_tokens(16), "ego2exo_pool": POOLED[8], "ego2exo_bottleneck": 0.5},
}


@dataclass(frozen=True)
class DemoPlan:
    """Sizes of one run. A demo with other sizes has another base in its cache.

    Args:
        variants: those of `STUDENTS`, or of `added`, to train; base and teacher are always asked.
        added: further variants, each a name and the flags that it adds to the command of `distill`.
        encoder_scenes, encoder_steps: of the encoder's pretraining.
        base_scenes, base_steps: of the base's training.
        pairs: paired clips that students learn from.
        steps, batch, rate: of every student's training: optimizer steps, samples a step, learning rate.
        tests: clips that questions are asked about, of trained pairs of objects and as many of held-out ones.
    """

    variants: tuple[str, ...] = ("control", "distill", "pooled-16", "tokens-16", "pooled-8+tokens-16")
    added: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    encoder_scenes: int = 1500
    encoder_steps: int = 500
    base_scenes: int = 2000
    base_steps: int = 1000
    pairs: int = 1500
    steps: int = 650
    batch: int = 16
    rate: float = 1.8e-3
    tests: int = 60

    def sizes(self) -> dict[str, Any]:
        """All but the variants."""
        return {name: value for name, value in asdict(self).items() if name not in ("variants", "added")}

    def flags(self, name: str) -> dict[str, Any]:
        """What one variant adds to the common training command."""
        return STUDENTS[name] if name in STUDENTS else dict(dict(self.added)[name])


def added_variant(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A variant as the command line gives it, ``NAME: --flag value ...``.

    Raises:
        Ego2ExoError: it has another form, or the name is taken.
    """
    name, _, rest = text.partition(":")
    name, words = name.strip(), shlex.split(rest)
    flags, values = words[::2], words[1::2]
    free = re.fullmatch(r"[\w.+-]+", name) and name not in {*STUDENTS, "base", "teacher", "chance"}
    if not (free and flags and len(flags) == len(values) and all(flag.startswith("--") for flag in flags)):
        raise Ego2ExoError(
            f"--add {text!r}", "'NAME: --flag value ...', NAME a new one of letters, digits, and . + - _",
            "for example --add 'tokens-slow: --ego2exo True --ego2exo_lr 0.001'",
        )  # fmt: skip
    return name, tuple((flag.removeprefix("--"), value) for flag, value in zip(flags, values, strict=True))


FULL = DemoPlan(tuple(STUDENTS), tests=100)
DEFAULT = DemoPlan(steps=450)  # ends within minutes; some students are still learning
QUICK = DemoPlan(("control", "distill", "tokens-16"), pairs=600, steps=170, tests=40)
