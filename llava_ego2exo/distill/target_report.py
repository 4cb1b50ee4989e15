"""What a run of `targets` tells: what went into the file, what did not, and how to train with it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runs.listing import listed
from .mixing import Mix
from .targets import AFTER, BEFORE, Choices, Tally

LISTED = 20


def report(tally: Tally, choices: Choices, split: str, teacher: str, notes: Sequence[str]) -> list[str]:
    """Counts of samples, views and placements, and the answers that were left out.

    Args:
        tally: of the samples.
        choices: how they were made.
        split: of the pairs.
        teacher: its name.
        notes: lines to add.
    """
    lines = [
        f"samples: {tally.samples} from {tally.segments} segment(s) of split {split}, seed {choices.seed}",
        f"answers: {_counts(tally.kinds)}; teacher {teacher}",
        f"views: {_counts(tally.views)} ({choices.views})",
        f"placeholder: {tally.placements[BEFORE]} before the query, {tally.placements[AFTER]} after",
    ]
    for flag, names in sorted(tally.dropped.items()):
        lines.append(f"left out, {flag}: {len(names)} answer(s): {listed(names, LISTED)}")
    if tally.kept_flags:
        lines.append(f"kept though flagged: {_counts(tally.kept_flags)}")
    return [*lines, *notes]


def replay_report(mix: Mix | None, replayed: Sequence[Any], distilled: int) -> list[str]:
    """How many samples are replayed, and which share of all they are."""
    if mix is None:
        return []
    return [
        f"replayed: {len(replayed)} sample(s) of {mix.file}, {len(replayed) / (len(replayed) + distilled):.1%} of all"
    ]


def training_flags(file: Path, choices: Choices, mix: Mix | None, samples: Sequence[dict[str, Any]]) -> list[str]:
    """The data flags of the training command, to paste."""
    flags = ["--data_path", str(file), "--video_folder", choices.video_folder]
    images = mix.folders[1] if mix and any("image" in sample for sample in samples) else None
    flags += ["--image_folder", images] if images else []
    return [f"wrote {file}; train with:", f"  {shlex.join(flags)}"]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
