"""What a demo run measured: filled by the demo, read by its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError

if TYPE_CHECKING:
    import numpy as np

HOWS = ("none", "removed", "other clip", "alone")  # as in host/ablation.py; "none" is the intact student


@dataclass(frozen=True)
class Shown:
    """One question about one held-out pair of clips, with every variant's answer.

    Attributes:
        question_type: "hand", "object", "region", "order".
        question: without placeholder.
        options: what was to choose from.
        truth: the right option.
        answers: variant -> the option it chose.
        ego_frames: (T, H, W, 3) uint8.
        exo_frames: (T, H, W, 3) uint8.
        teacher_answer: what the teacher wrote about the ego clip.
        student_answer: what the student wrote about the exo clip.
    """

    question_type: str
    question: str
    options: Sequence[str]
    truth: str
    answers: Mapping[str, str]
    ego_frames: np.ndarray
    exo_frames: np.ndarray
    teacher_answer: str = ""
    student_answer: str = ""


@dataclass(frozen=True)
class Look:
    """Where the ego tokens look in one clip.

    Attributes:
        title: one line.
        frames: (T, H, W, 3) uint8.
        maps: (layers, T, h, w), attention averaged over tokens and heads; a layer's map sums to 1 over T, h and w.
        layers: a name for each layer.
    """

    title: str
    frames: np.ndarray
    maps: np.ndarray
    layers: Sequence[str]


@dataclass(frozen=True)
class Results:
    """Everything that the report shows. Accuracies are in percent, one number a seed.

    Attributes:
        variants: variant -> question type -> accuracy of each seed. Order is the order of the table.
        chance: question type -> percent.
        ablations: variant -> how (of `HOWS`) -> question type -> accuracy of each seed.
        curves: variant -> for each seed (step, loss) pairs.
        items: questions shown with their frames.
        looks: clips shown with their attention.
        settings: name -> value, for the record.
        commands: the commands that were run, as typed.
        seconds: part of the run -> wall-clock seconds.

    Raises:
        Ego2ExoError: an accuracy that is none, or a variant whose seeds or question types do not fit together.
    """

    variants: Mapping[str, Mapping[str, Sequence[float]]]
    chance: Mapping[str, float]
    ablations: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]] = field(default_factory=dict)
    items: Sequence[Shown] = ()
    looks: Sequence[Look] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        measured = {
            **self.variants,
            **{f"{v}, {how}": x for v, hows in self.ablations.items() for how, x in hows.items()},
        }
        faults = [f"{name}: {fault}" for name, types in measured.items() if (fault := self._fault(types))]
        faults += [f"{name}: an ablation of no variant" for name in self.ablations if name not in self.variants]
        faults += ["a variant is called chance"] * ("chance" in self.variants)
        if faults:
            raise Ego2ExoError(
                f"results of {len(faults)} variant(s) cannot be shown: {'; '.join(faults[:5])}",
                "for each question type of `chance` the percent right of each seed, as many for every type",
            )

    def _fault(self, types: Mapping[str, Sequence[float]]) -> str:
        if set(types) != set(self.chance):
            return f"question types {', '.join(types)} instead of {', '.join(self.chance)}"
        if len({len(seeds) for seeds in types.values()}) != 1 or not all(types.values()):
            return "seeds " + ", ".join(f"{name} {len(seeds)}" for name, seeds in types.items())
        wrong = [
            value for seeds in types.values() for value in seeds if not (math.isfinite(value) and 0 <= value <= 100)
        ]
        return f"accuracy {wrong[0]}" if wrong else ""
