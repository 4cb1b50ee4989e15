"""What a demo run measured: filled by the demo, read by its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
