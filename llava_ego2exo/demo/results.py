"""What a demo run measured, with means and spreads over seeds and tables for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..common.text import aligned_table

if TYPE_CHECKING:
    import numpy as np

    Accuracies = Mapping[str, Sequence[float]]  # question type -> percent right of each seed
    Spread = dict[str, float]  # mean, std, n

MEAN, CHANCE = "mean", "chance"
ABLATIONS = {  # as in host/model/inspection.py
    "none": "intact",
    "removed": "ego tokens removed",
    "other clip": "ego tokens of another clip",
    "alone": "ordinary tokens removed",
}
VARIANTS = {
    "base": "before any training on pairs",
    "control": "fine-tuned on captions of the exo clips, with the same steps",
    "distill": "sequence distillation: trained on the teacher's answers, without ego tokens",
    "distill+tokens": "the same, with Ego Adaptive Visual Tokens",
    "distill+tokens+kl": "the same, with a KL term to the self-teacher",
    "tokens-only": "as distill+tokens, but without ordinary visual tokens",
    "teacher": "the teacher, asked about the ego clip: the upper bound",
    CHANCE: "guessing",
}
COMPARED = (
    ("control", "base"), ("distill", "control"), ("distill+tokens", "distill"),
    ("distill+tokens+kl", "distill+tokens"), ("tokens-only", "control"), ("teacher", "distill"),
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One question about one held-out pair of clips, with the option that each variant chose.

    Frames are (T, H, W, 3) uint8; the teacher describes the ego clip, the student the exo clip.
    """

    question_type: str
    question: str
    options: Sequence[str]
    truth: str
    answers: Mapping[str, str]
    ego_frames: np.ndarray
    exo_frames: np.ndarray
    teacher_answer: str
    student_answer: str


@dataclass(frozen=True)
class ClipAttention:
    """The attention of the ego tokens in one clip.

    Attributes:
        title: one line.
        frames: (T, H, W, 3) uint8.
        maps: (layers, T, h, w), averaged over tokens and heads; a layer's map sums to 1 over T, h and w.
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
        variants: variant -> question type -> accuracy of each seed, in the order of the table.
        chance: question type -> percent.
        ablations: variant -> ablation, in the order of `ABLATIONS` -> question type -> accuracy of each seed.
        curves: variant -> for each seed (step, loss) pairs.
        examples: questions shown with their frames.
        attention: clips shown with their attention.
        settings: name -> value, for the record.
        commands: the commands that were run, as typed.
        seconds: part of the run -> wall-clock seconds.
    """

    variants: Mapping[str, Accuracies]
    chance: Mapping[str, float]
    ablations: Mapping[str, Mapping[str, Accuracies]] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    attention: Sequence[ClipAttention] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def spread(seeds: Sequence[float]) -> Spread:
    """Mean, sample standard deviation (0.0 for one seed) and number of seeds."""
    std = statistics.stdev(seeds) if len(seeds) > 1 else 0.0
    return {"mean": statistics.fmean(seeds), "std": std, "n": len(seeds)}


def with_mean(types: Accuracies) -> dict[str, list[float]]:
    """The seeds of each question type, and under "mean" each seed's mean over the types."""
    per_seed = [statistics.fmean(values) for values in zip(*types.values(), strict=True)]
    return {**{name: list(seeds) for name, seeds in types.items()}, MEAN: per_seed}


def _spreads(variants: Mapping[str, Accuracies]) -> dict[str, dict[str, Spread]]:
    return {
        variant: {name: spread(seeds) for name, seeds in with_mean(types).items()}
        for variant, types in variants.items()
    }


def rows(results: Results) -> dict[str, dict[str, Spread]]:
    """Variant -> question type or "mean" -> mean, std and n; chance, which is known, comes last as one seed."""
    return _spreads({**results.variants, CHANCE: {name: [value] for name, value in results.chance.items()}})


def ablation_rows(results: Results) -> dict[str, dict[str, dict[str, Spread]]]:
    """Variant -> ablation -> question type or "mean" -> mean, std and n."""
    return {variant: _spreads(ablated) for variant, ablated in results.ablations.items()}


def metrics(results: Results) -> dict[str, Any]:
    """What `metrics.json` holds."""
    kept = {name: getattr(results, name) for name in ("settings", "commands", "seconds")}
    return {"variants": rows(results), "ablations": ablation_rows(results), **kept}


def table(results: Results) -> str:
    """Variants by question types, percent right: mean and, with several seeds, ± the sample standard deviation."""
    head = ["", *results.chance, MEAN]
    lines = [[name, *(cell(row[column]) for column in head[1:])] for name, row in rows(results).items()]
    return f"{aligned_table(head, lines)}\n\npercent right; {legend(results)}"


def ablation_table(results: Results) -> str:
    """As :func:`table`, a row for each ablation of each variant; empty where nothing was ablated."""
    columns = [*results.chance, MEAN]
    lines = []
    for variant, ablated in ablation_rows(results).items():
        for name, row in ablated.items():
            intact = name == "none"
            change = "" if intact else f"{row[MEAN]['mean'] - ablated['none'][MEAN]['mean']:+.1f}"
            lines.append(
                [variant if intact else "", ABLATIONS[name], *(cell(row[column]) for column in columns), change]
            )
    if not lines:
        return ""
    text = aligned_table(["", "input", *columns, "change"], lines, left=2)
    return f"{text}\n\npercent right; {legend(results)}; change: of the mean, against intact"


def cell(value: Spread) -> str:
    """One accuracy with one decimal, and its spread with several seeds."""
    return f"{value['mean']:.1f}" + (f" ± {value['std']:.1f}" if value["n"] > 1 else "")


def differences(results: Results) -> list[tuple[str, str, Spread]]:
    """By how much a variant's mean over question types exceeds another's, seed by seed: the pairs of `COMPARED`."""
    means = {name: with_mean(types)[MEAN] for name, types in results.variants.items()}
    return [
        (name, other, spread([a - b for a, b in zip(means[name], means[other], strict=True)]))
        for name, other in COMPARED
        if name in means and other in means
    ]


def legend(results: Results) -> str:
    """What the numbers are: how many seeds, and what the spread is."""
    count = max(row[MEAN]["n"] for row in rows(results).values())
    return "one seed, so no spread" if count == 1 else f"mean ± sample standard deviation over {count} seeds"
