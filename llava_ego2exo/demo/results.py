"""What a demo run measured: filled by the demo, read by its report."""

from __future__ import annotations

import math
import statistics
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


# A run's results as numbers: means and spreads over seeds, and tables of them for a terminal.

MEAN, CHANCE = "mean", "chance"
LABELS = {
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
    ("control", "base"),
    ("distill", "control"),
    ("distill+tokens", "distill"),
    ("distill+tokens+kl", "distill+tokens"),
    ("tokens-only", "control"),
    ("teacher", "distill"),
)


def spread(seeds: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation (0.0 for one seed) and number of seeds."""
    return {
        "mean": statistics.fmean(seeds),
        "std": statistics.stdev(seeds) if len(seeds) > 1 else 0.0,
        "n": len(seeds),
    }


def with_mean(types: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The seeds of each question type, and under "mean" each seed's mean over the types."""
    per_seed = [statistics.fmean(values) for values in zip(*types.values(), strict=True)]
    return {**{name: list(seeds) for name, seeds in types.items()}, MEAN: per_seed}


def rows(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Variant -> question type or "mean" -> mean, std and n; chance comes last.

    Chance is known, not measured: its std is 0, and its n that of the variant with most seeds.
    """
    found = {name: _spreads(types) for name, types in results.variants.items()}
    most = max((row[MEAN]["n"] for row in found.values()), default=1)
    return {**found, CHANCE: _spreads({name: [value] * most for name, value in results.chance.items()})}


def ablation_rows(results: Results) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Variant -> how -> question type or "mean" -> mean, std and n, hows in the order of `HOWS`."""
    ordered = {
        name: {how: types for how in sorted(hows, key=_order) for types in [hows[how]]}
        for name, hows in results.ablations.items()
    }
    return {name: {how: _spreads(types) for how, types in hows.items()} for name, hows in ordered.items()}


def metrics(results: Results) -> dict[str, Any]:
    """What `metrics.json` holds.

    Returns:
        `{"variants": {NAME: {TYPE or "mean": {"mean", "std", "n"}}}, "ablations": {NAME: {HOW: {TYPE or "mean":
        {...}}}}, "settings", "commands", "seconds"}`; accuracies in percent, n the number of seeds.
    """
    return {
        "variants": rows(results),
        "ablations": ablation_rows(results),
        "settings": dict(results.settings),
        "commands": list(results.commands),
        "seconds": dict(results.seconds),
    }


def table(results: Results) -> str:
    """Variants by question types, percent right: mean and, with several seeds, ± the sample standard deviation."""
    lines = [["", *results.chance, MEAN]]
    for name, row in rows(results).items():
        lines.append([name, *(cell(row[column], name == CHANCE) for column in lines[0][1:])])
    return "\n".join([_aligned(lines), "", f"percent right; {legend(results)}"])


def ablation_table(results: Results) -> str:
    """As :func:`table`, a row for each ablation of each variant; empty where nothing was ablated."""
    lines = [["", "", *results.chance, MEAN, "change"]]
    for name, hows in ablation_rows(results).items():
        for how, row in hows.items():
            lines.append([name, LABELS.get(how, how), *(cell(row[column]) for column in lines[0][2:-1])])
            lines[-1].append(change(row, hows.get("none")) if how != "none" else "")
            name = ""
    if len(lines) == 1:
        return ""
    return "\n".join([_aligned(lines, 2), "", f"percent right; {legend(results)}; change: of the mean, against intact"])


def cell(value: Mapping[str, float], known: bool = False) -> str:
    """One accuracy with one decimal; one that is known, as chance is, has no spread."""
    if value["n"] > 1 and not known:
        return f"{value['mean']:.1f} ± {value['std']:.1f}"
    return f"{value['mean']:.1f}"


def change(row: Mapping[str, Mapping[str, float]], intact: Mapping[str, Mapping[str, float]] | None) -> str:
    """Difference of the means over question types, in points; empty without an intact run to compare with."""
    return "" if intact is None else f"{row[MEAN]['mean'] - intact[MEAN]['mean']:+.1f}"


def differences(results: Results) -> list[tuple[str, str, dict[str, float]]]:
    """How far a variant's mean over question types lies above another's, seed by seed: the pairs of `COMPARED`.

    Returns:
        (variant, the other, mean, std and n of the differences in points); pairs without the same seeds are left out.
    """
    found = []
    for name, other in COMPARED:
        if name in results.variants and other in results.variants:
            mine, theirs = (with_mean(results.variants[key])[MEAN] for key in (name, other))
            if len(mine) == len(theirs):
                found.append((name, other, spread([a - b for a, b in zip(mine, theirs, strict=True)])))
    return found


def legend(results: Results) -> str:
    """What the numbers are: how many seeds, and what the spread is."""
    counts = sorted({len(seeds) for types in results.variants.values() for seeds in types.values()})
    if counts in ([], [1]):
        return "one seed, so no spread"
    told = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean ± sample standard deviation over {told} seeds"


def _spreads(types: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {name: spread(seeds) for name, seeds in with_mean(types).items()}


def _order(how: str) -> int:
    return HOWS.index(how) if how in HOWS else len(HOWS)


def _aligned(lines: list[list[str]], left: int = 1) -> str:
    """Columns of one width: the first `left` to the left, numbers to the right, means below means."""
    columns = [list(column) for column in zip(*lines, strict=True)]
    for column in columns[left:]:
        tails = [len(text) - len(text.split(" ±")[0]) for text in column]
        column[1:] = [text + " " * (max(tails) - tail) for text, tail in zip(column[1:], tails[1:], strict=True)]
    widths = [max(map(len, column)) for column in columns]
    pads = [str.ljust] * left + [str.rjust] * (len(columns) - left)
    padded = [[pad(text, width) for text in column] for pad, width, column in zip(pads, widths, columns, strict=True)]
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))
