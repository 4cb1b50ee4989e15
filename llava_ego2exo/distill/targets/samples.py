"""Pairs and teacher answers as samples of LLaVA's training JSON (paper section 3.1: sequence distillation)."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.draws import draw, shuffle_key
from ...common.files import write_atomic
from ...errors import Ego2ExoError
from ..teach.job import CUT

if TYPE_CHECKING:
    from ..pairs.pair import Pair
    from ..teach.store import Answer

PLACEHOLDER = "<image>"
PLACEHOLDERS = (PLACEHOLDER, "<video>")  # of other data, which training reads alike
Sample = dict[str, Any]


@dataclass(frozen=True)
class SampleOptions:
    """How answers become samples, as the flags of `llava-ego2exo targets`; its paths are relative to `video_folder`."""

    video_folder: str
    views: str = "random"
    turns: str = "one"
    flagged: str = "drop"
    seed: int = 0


@dataclass
class SampleCounts:
    """Samples, segments, answers by kind, samples by view, and dropped answers by reason."""

    samples: int = 0
    segments: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, list[str]] = field(default_factory=dict)


def make_samples(
    pairs: Sequence[Pair], answers: Sequence[Answer], options: SampleOptions
) -> tuple[list[Sample], SampleCounts]:
    """One sample for each answer (or segment) and exo view: in the pairs' order, then by name of kind and view.

    All draws depend on the seed and the names of segment, view and kind alone: adding or removing pairs changes no
    other pair's samples.
    """
    counts = SampleCounts()
    usable = _usable(pairs, answers, options, counts)
    samples: list[Sample] = []
    for pair in pairs:
        own = usable[pair.segment]
        groups = [[answer] for answer in own] if options.turns == "one" else [own] if own else []
        samples += [sample for group in groups for sample in _samples(pair, group, options)]
        counts.segments += bool(groups)
    if not samples:
        reasons = ", ".join(f"{reason} {len(names)}" for reason, names in counts.dropped.items()) or "there was none"
        longer = "; for longer answers run `llava-ego2exo teach` with a larger --max-new-tokens and a new --out"
        raise Ego2ExoError(
            f"no answer is left to train on (dropped: {reasons})",
            "one or more",
            "check the teacher's answers, and pass --flagged keep to train on flagged ones as they are"
            + (longer if CUT in counts.dropped else ""),
        )
    counts.samples = len(samples)
    counts.views.update(sample["view"] for sample in samples)
    return samples, counts


def write_samples(out: str | Path, samples: Sequence[Sample]) -> Path:
    """Write the training file, atomically, with sorted keys and in ASCII, so that equal samples are equal bytes."""
    return write_atomic(out, json.dumps(samples, indent=1, sort_keys=True) + "\n")


def relative_to(folder: str, path: str) -> str:
    """A path of a training file: relative to the folder if it lies below it, else absolute."""
    folder, path = os.path.abspath(folder), os.path.abspath(path)
    below = os.path.commonpath([folder, path]) == folder
    return (os.path.relpath(path, folder) if below else path).replace(os.sep, "/")


def _usable(
    pairs: Sequence[Pair], answers: Sequence[Answer], options: SampleOptions, counts: SampleCounts
) -> dict[str, list[Answer]]:
    """Segment -> its answers by kind, without those to drop, which are counted."""
    usable: dict[str, list[Answer]] = {pair.segment: [] for pair in pairs}
    for answer in answers:
        if answer.segment not in usable:
            continue
        # Two placeholders with one video crash LLaVA, so such an answer can never be kept.
        reasons = ["placeholder"] if any(one in answer.answer for one in PLACEHOLDERS) else []
        reasons += answer.flags if options.flagged == "drop" else []
        for reason in reasons:
            counts.dropped.setdefault(reason, []).append(f"{answer.segment} {answer.kind}")
        if not reasons:
            usable[answer.segment].append(answer)
            counts.kinds[answer.kind] += 1
    return {segment: sorted(group, key=lambda answer: answer.kind) for segment, group in usable.items()}


def _samples(pair: Pair, answers: list[Answer], options: SampleOptions) -> list[Sample]:
    """A sample of these answers for each chosen view."""
    name, views = answers[0].kind if options.turns == "one" else "all", sorted(pair.exo)
    chosen = views if options.views == "all" else [draw(views, options.seed, "view", pair.segment, name)]
    return [_sample(pair, view, name, answers, options) for view in chosen]


def _sample(pair: Pair, view: str, name: str, answers: list[Answer], options: SampleOptions) -> Sample:
    names = (options.seed, pair.segment, view, name)
    answers = sorted(answers, key=lambda answer: shuffle_key("turn", *names, answer.kind))
    place = draw(("before", "after"), "placement", *names)
    queries = [answer.query for answer in answers]
    queries[0] = f"{PLACEHOLDER}\n{queries[0]}" if place == "before" else f"{queries[0]}\n{PLACEHOLDER}"
    return {
        "id": f"{pair.segment}_{view}_{name}",
        "video": relative_to(options.video_folder, pair.exo[view]),
        "ego_video": relative_to(options.video_folder, pair.ego),
        "segment": pair.segment,
        "view": view,
        "answer_keys": [answer.key for answer in answers],
        "conversations": [
            {"from": role, "value": value}
            for query, answer in zip(queries, answers, strict=True)
            for role, value in (("human", query), ("gpt", answer.answer))
        ],
    }
