"""What a demo run measured, with means and spreads over seeds and tables for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..common.text import aligned_table

if TYPE_CHECKING:
    import numpy as np

    Seeds = Sequence[float]  # a number of each seed
    Accuracies = Mapping[str, Seeds]  # question type -> percent right of each seed
    Spread = dict[str, Any]  # mean, std, n, and the numbers of the seeds

MEAN, CHANCE = "mean", "chance"
FACTS = "facts"
WRITTEN = (FACTS, "whole")  # of a description: facts that are right; descriptions in which all are
TRAINED, HELD_OUT, BOTH = "trained", "held-out", "both"  # new clips of pairs of objects that training shows, or not
SPLITS = (HELD_OUT, TRAINED, BOTH, FACTS)
ABLATIONS = {  # as in host/model/inspection.py
    "none": "intact",
    "removed": "ego tokens removed",
    "other clip": "ego tokens of another clip",
    "alone": "ordinary tokens removed",
}
RECEIVERS = ("ego tokens", "visual tokens", "text")  # of attention
SIZES = (4, 8, 16, 32)
VARIANTS = {
    "base": "before any training on pairs",
    "control": "fine-tuned on captions of the exo clips, with the same steps",
    "distill": "sequence distillation: trained on the teacher's answers, with all ordinary visual tokens",
    **{f"pooled-{size}": f"the same, ordinary tokens pooled to {size} a clip" for size in SIZES},
    **{f"tokens-{size}": f"the same, with {size} ego tokens in the place of all ordinary ones" for size in SIZES},
    "distill+tokens-16": "all ordinary tokens and 16 ego tokens",
    "distill+on-policy": "the same with a KL to the teacher; in half of the steps the student samples the answers",
    "pooled-8+tokens-16": "8 pooled tokens and 16 ego tokens, after a stage with the ego tokens alone",
    "teacher": "the teacher, asked about the ego clip: the upper bound",
    CHANCE: "guessing",
}
COMPARED = (  # variant, another one, and whether by difference or as a share
    ("distill", "control", "points"),
    ("tokens-16", "distill", "percent"),
    ("tokens-8", "pooled-8", "points"),
    ("tokens-4", "pooled-4", "points"),
    ("distill+tokens-16", "distill", "points"),
    ("distill+on-policy", "distill", "points"),
    ("distill+on-policy", "distill+tokens-16", "points"),
    ("pooled-8+tokens-16", "pooled-8", "points"),
)


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
        variants: variant -> question type -> accuracy of each seed on held-out pairs, in the order of the table.
        trained: the same on new clips of trained pairs.
        written: variant -> each of `WRITTEN` -> percent of each seed, in its own descriptions of held-out pairs.
        chance: question type -> percent.
        visual_tokens: variant -> how many a clip is in the language model's input.
        answer_seconds: variant -> CPU seconds an answer of each seed.
        ablations: variant -> ablation, in the order of `ABLATIONS` -> question type -> accuracy of each seed.
        answer_attention: variant with ego tokens -> each of `RECEIVERS` -> its share, 0 to 1, of each seed.
        probe: view -> attribute -> percent right of each seed of a probe on the frozen vision tower.
        curves: variant -> for each seed (step, loss) pairs.
        examples: questions shown with their frames.
        attention: clips shown with their attention.
        settings: name -> value, for the record.
        commands: the commands that were run, as typed.
        seconds: part of the run -> wall-clock seconds.
    """

    variants: Mapping[str, Accuracies]
    trained: Mapping[str, Accuracies]
    chance: Mapping[str, float]
    visual_tokens: Mapping[str, int]
    answer_seconds: Mapping[str, Seeds]
    written: Mapping[str, Accuracies] = field(default_factory=dict)
    ablations: Mapping[str, Mapping[str, Accuracies]] = field(default_factory=dict)
    answer_attention: Mapping[str, Mapping[str, Seeds]] = field(default_factory=dict)
    probe: Mapping[str, Accuracies] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    attention: Sequence[ClipAttention] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def spread(seeds: Seeds) -> Spread:
    """Mean, sample standard deviation (0.0 for one seed), number of seeds, and their numbers."""
    std = statistics.stdev(seeds) if len(seeds) > 1 else 0.0
    return {"mean": statistics.fmean(seeds), "std": std, "n": len(seeds), "seeds": list(seeds)}


def with_mean(types: Accuracies) -> dict[str, list[float]]:
    """The seeds of each question type, and under "mean" each seed's mean over the types."""
    per_seed = [statistics.fmean(values) for values in zip(*types.values(), strict=True)]
    return {**{name: list(seeds) for name, seeds in types.items()}, MEAN: per_seed}


def accuracy(results: Results, variant: str, split: str = BOTH) -> list[float]:
    """Of each seed the mean over question types, of one split or as the mean of both; or the facts of descriptions."""
    if split == FACTS:
        return list(results.written[variant][FACTS])
    held_out, trained = (with_mean(of[variant])[MEAN] for of in (results.variants, results.trained))
    both = [(a + b) / 2 for a, b in zip(held_out, trained, strict=True)]
    return {HELD_OUT: held_out, TRAINED: trained, BOTH: both}[split]


def _spreads(variants: Mapping[str, Accuracies]) -> dict[str, dict[str, Spread]]:
    return {
        variant: {name: spread(seeds) for name, seeds in with_mean(types).items()}
        for variant, types in variants.items()
    }


def rows(results: Results) -> dict[str, dict[str, Spread]]:
    """Variant -> question type, "mean" (of held-out pairs), "trained", "both", each of `WRITTEN` -> a spread.

    Chance, which is known, comes last as one seed.
    """
    found = _spreads({**results.variants, CHANCE: {name: [value] for name, value in results.chance.items()}})
    for name, row in found.items():
        guess = name == CHANCE
        row.update({split: row[MEAN] if guess else spread(accuracy(results, name, split)) for split in (TRAINED, BOTH)})
        row.update({kind: spread(seeds) for kind, seeds in results.written.get(name, {}).items()})
    return found


def ablation_rows(results: Results) -> dict[str, dict[str, dict[str, Spread]]]:
    """Variant -> ablation -> question type or "mean", of held-out pairs -> mean, std, n, seeds."""
    return {variant: _spreads(ablated) for variant, ablated in results.ablations.items()}


def attention_rows(results: Results) -> dict[str, dict[str, Spread]]:
    """Variant -> each of `RECEIVERS` -> percent of the attention."""
    return {
        variant: {name: spread([100 * share for share in shares[name]]) for name in RECEIVERS}
        for variant, shares in results.answer_attention.items()
    }


def metrics(results: Results) -> dict[str, Any]:
    """What `metrics.json` holds."""
    kept = {name: getattr(results, name) for name in ("visual_tokens", "settings", "commands", "seconds")}
    compared = [{"variant": a, "against": b, "unit": unit, **by_split} for a, b, unit, by_split in differences(results)]
    return {
        "variants": rows(results), "trained": _spreads(results.trained), "differences": compared,
        "answer_seconds": {name: spread(seeds) for name, seeds in results.answer_seconds.items()},
        "ablations": ablation_rows(results), "answer_attention": attention_rows(results),
        "probe": _spreads(results.probe), **kept,
    }  # fmt: skip


def table(results: Results) -> str:
    """Variants by question types, percent right: mean and, with several seeds, ± the sample standard deviation."""
    columns, body = [*results.chance, MEAN, TRAINED, *WRITTEN], []
    for name, row in rows(results).items():
        cells = [cell(row[column]) if column in row else "" for column in columns]
        body.append([name, results.visual_tokens.get(name, ""), *cells, milliseconds(results, name)])
    text = aligned_table(["", "visual tokens", *columns, "ms per answer"], body)
    shown = "percent right on new clips of held-out pairs of objects; mean: over question types; trained: on trained"
    written = "in descriptions that a model writes itself, facts that are right, and texts that are right as a whole"
    return f"{text}\n\n{shown} pairs;\nfacts, whole: {written}; {legend(results)}"


def milliseconds(results: Results, variant: str) -> str:
    """CPU time of an answer, for the table; empty for chance."""
    seconds = results.answer_seconds.get(variant)
    return cell(spread([1000 * one for one in seconds])) if seconds else ""


def probe_table(results: Results) -> str:
    """Views by attributes, as :func:`table`; empty where nothing was probed."""
    if not results.probe:
        return ""
    columns = list(next(iter(results.probe.values())))
    body = [[view, *(cell(spread(types[name])) for name in columns)] for view, types in results.probe.items()]
    shown = "percent right of a probe on the frozen tower: the ceiling for a model that sees this view"
    return f"{aligned_table(['probe of the tower', *columns], body)}\n\n{shown}"


def ablation_table(results: Results) -> str:
    """As :func:`table`, a row for each ablation of each variant; empty where nothing was ablated."""
    columns, body = [*results.chance, MEAN], []
    for variant, ablated in ablation_rows(results).items():
        for name, row in ablated.items():
            intact = name == "none"
            change = "" if intact else f"{row[MEAN]['mean'] - ablated['none'][MEAN]['mean']:+.1f}"
            cells = (cell(row[column]) for column in columns)
            body.append([variant if intact else "", ABLATIONS[name], *cells, change])
    if not body:
        return ""
    text = aligned_table(["", "input", *columns, "change"], body, left=2)
    return f"{text}\n\npercent right, held-out pairs; {legend(results)}; change: of the mean, against intact"


def attention_table(results: Results) -> str:
    """Where answers attend, in percent; empty without ego tokens."""
    body = [[name, *(cell(row[part]) for part in RECEIVERS)] for name, row in attention_rows(results).items()]
    if not body:
        return ""
    return f"{aligned_table(['attention of answers to', *RECEIVERS], body)}\n\npercent; {legend(results)}"


def cell(value: Spread) -> str:
    """One number with one decimal, and its spread with several seeds."""
    return f"{value['mean']:.1f}" + (f" ± {value['std']:.1f}" if value["n"] > 1 else "")


def differences(results: Results) -> list[tuple[str, str, str, dict[str, Spread]]]:
    """Variants against others, seed by seed, as `COMPARED` says, and as "swapped" each that has ego tokens.

    Returns:
        Variant, what it is compared with, the unit ("points", or "percent" of the other's accuracy), and one of
        `SPLITS` -> spread; another clip's ego tokens are given for held-out pairs alone.
    """
    found = []
    for name, other, unit in COMPARED:
        if name in results.variants and other in results.variants:
            by_split = {}
            for split in SPLITS if name in results.written else SPLITS[:-1]:
                both = zip(accuracy(results, name, split), accuracy(results, other, split), strict=True)
                by_split[split] = spread([a - b if unit == "points" else 100 * a / b for a, b in both])
            found.append((name, other, unit, by_split))
    for name, ablated in results.ablations.items():
        swapped, intact = (with_mean(ablated[how])[MEAN] for how in ("other clip", "none"))
        change = spread([a - b for a, b in zip(swapped, intact, strict=True)])
        found.append((f"{name}, {ABLATIONS['other clip']}", name, "points", {HELD_OUT: change}))
    return found


def difference_table(results: Results) -> str:
    """:func:`differences` for a terminal."""
    body = []
    for name, other, unit, found in differences(results):
        against = f"{'-' if unit == 'points' else '/'} {other}"
        body.append([name, against, *(signed(found[split], unit) if split in found else "" for split in SPLITS)])
    text = aligned_table(["", "against", *SPLITS], body, left=2)
    units = "points, or percent of the other's; both: mean of held-out and trained; facts: of descriptions"
    return f"{text}\n\nof the mean over question types, seed by seed; {units}; {legend(results)}"


def signed(value: Spread, unit: str) -> str:
    """A difference with its sign, or a share in percent."""
    text = cell(value)
    return f"{text}%" if unit == "percent" else text if text.startswith("-") else f"+{text}"


def legend(results: Results) -> str:
    """What the numbers are: how many seeds, and what the spread is."""
    count = max(row[MEAN]["n"] for row in rows(results).values())
    return "one seed, so no spread" if count == 1 else f"mean ± sample standard deviation over {count} seeds"
