"""From pairs and teacher answers to LLaVA's training JSON (paper section 3.1: sequence distillation)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import write_whole
from ..errors import Ego2ExoError
from .draws import draw, shuffle_key
from .mixing import relative_to
from .quality import CUT

if TYPE_CHECKING:
    from .answers import Answer
    from .pairs import Pair

PLACEHOLDER = "<image>"
BEFORE, AFTER = "before", "after"
Sample = dict[str, Any]


@dataclass(frozen=True)
class Choices:
    """How answers become samples.

    Args:
        video_folder: what the samples' paths are relative to.
        views: "random": one exo view of each segment, drawn for each sample; "all": one sample a view.
        turns: "one": one answer a sample; "all": all of a segment as turns of one conversation.
        flagged: "drop" or "keep" the answers that the teacher's run flagged.
        seed: of all draws.
    """

    video_folder: str
    views: str = "random"
    turns: str = "one"
    flagged: str = "drop"
    seed: int = 0


@dataclass
class Tally:
    """What went into the samples and what did not."""

    samples: int = 0
    segments: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    placements: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    kept_flags: Counter[str] = field(default_factory=Counter)


def make_samples(pairs: Sequence[Pair], answers: Sequence[Answer], choices: Choices) -> tuple[list[Sample], Tally]:
    """One sample for each answer (or segment) and exo view: in the pairs' order, then by name of kind and view.

    All draws come from the seed and the names of segment, view and kind: pairs that are added or left out change no
    other pair's samples.

    Args:
        pairs: those of the split, with whole videos.
        answers: one teacher's; at most one for each segment and kind.
        choices: how they are joined.

    Raises:
        Ego2ExoError: no sample came out.
    """
    tally = Tally()
    usable = _usable(pairs, answers, choices, tally)
    samples = []
    for pair in pairs:
        made = [sample for group in _groups(usable[pair.segment], choices) for sample in _join(pair, group, choices)]
        tally.segments += bool(made)
        samples += made
    _count(samples, tally)
    if not samples:
        reasons = ", ".join(f"{reason} {len(names)}" for reason, names in tally.dropped.items()) or "none was given"
        longer = "; for longer answers let `llava-ego2exo teach` ask with a larger --max-new-tokens into a new --out"
        raise Ego2ExoError(
            f"no answer is left to train on (left out: {reasons})",
            "one answer or more that is not left out",
            "look at the teacher's answers, and give --flagged keep to train on flagged ones as they are"
            + (longer if CUT in tally.dropped else ""),
        )
    return samples, tally


def write_samples(out: str | Path, samples: Sequence[Sample]) -> Path:
    """Write the training file in one form: sorted keys, ASCII, so that equal samples are equal bytes.

    It is written beside its place first, then renamed.

    Raises:
        Ego2ExoError: it cannot be written.
    """
    return write_whole(out, json.dumps(samples, indent=1, sort_keys=True) + "\n")


def _usable(
    pairs: Sequence[Pair], answers: Sequence[Answer], choices: Choices, tally: Tally
) -> dict[str, list[Answer]]:
    """Segment -> its answers without those to leave out, which are tallied."""
    usable: dict[str, list[Answer]] = {pair.segment: [] for pair in pairs}
    for answer in answers:
        if answer.segment not in usable:
            continue
        # Two placeholders with one video crash LLaVA, so such an answer can never be kept.
        reasons = ["placeholder"] if PLACEHOLDER in answer.answer else []
        reasons += answer.flags if choices.flagged == "drop" else []
        for reason in reasons:
            tally.dropped.setdefault(reason, []).append(f"{answer.segment} {answer.kind}")
        if not reasons:
            usable[answer.segment].append(answer)
            tally.kinds[answer.kind] += 1
            tally.kept_flags.update(answer.flags)
    return {segment: sorted(group, key=lambda answer: answer.kind) for segment, group in usable.items()}


def _groups(answers: list[Answer], choices: Choices) -> list[list[Answer]]:
    """The answers that share a sample."""
    if choices.turns == "one":
        return [[answer] for answer in answers]
    return [answers] if answers else []


def _join(pair: Pair, answers: list[Answer], choices: Choices) -> list[Sample]:
    """A sample for each chosen view."""
    name = answers[0].kind if choices.turns == "one" else "all"
    views = sorted(pair.exo)
    chosen = views if choices.views == "all" else [draw(views, choices.seed, "view", pair.segment, name)]
    return [_sample(pair, view, name, answers, choices) for view in chosen]


def _sample(pair: Pair, view: str, name: str, answers: list[Answer], choices: Choices) -> Sample:
    names = (choices.seed, pair.segment, view, name)
    answers = sorted(answers, key=lambda answer: shuffle_key("turn", *names, answer.kind))
    place = draw((BEFORE, AFTER), "placement", *names)
    queries = [answer.query for answer in answers]
    queries[0] = f"{PLACEHOLDER}\n{queries[0]}" if place == BEFORE else f"{queries[0]}\n{PLACEHOLDER}"
    turns = [
        {"from": role, "value": value}
        for query, answer in zip(queries, answers, strict=True)
        for role, value in (("human", query), ("gpt", answer.answer))
    ]
    return {
        "id": f"{pair.segment}_{view}_{name}",
        "video": relative_to(choices.video_folder, pair.exo[view]),
        "ego_video": relative_to(choices.video_folder, pair.ego),
        "segment": pair.segment,
        "view": view,
        "answer_keys": [answer.key for answer in answers],
        "conversations": turns,
    }


def _count(samples: Sequence[Sample], tally: Tally) -> None:
    tally.samples = len(samples)
    tally.views.update(sample["view"] for sample in samples)
    first = [sample["conversations"][0]["value"] for sample in samples]
    tally.placements.update(BEFORE if value.startswith(PLACEHOLDER) else AFTER for value in first)
