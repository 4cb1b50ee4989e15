"""`llava-ego2exo targets`: read, check everything, draw, write, and tell what came out."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ..pairs.build import leaks
from ..pairs.file import read_pairs
from ..teach.store import read_answers
from .checks import Faults, check_answers, check_pairs, check_videos, only_teacher, teacher_name, unmatched
from .samples import (
    AFTER,
    BEFORE,
    Choices,
    Mix,
    Tally,
    check_ratio,
    draw_replayed,
    make_samples,
    mix_in,
    relocate,
    replay_count,
    write_samples,
)

if TYPE_CHECKING:
    from ..pairs.pair import Pair
    from ..teach.store import Answer


# What a run of `targets` tells: what went into the file, what did not, and how to train with it.

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
        lines.append(f"left out, {flag}: {len(names)} answer(s): {shorten_list(names, LISTED)}")
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


Read = TypeVar("Read")


@dataclass(frozen=True)
class Written:
    """What a run of `targets` has to tell."""

    text: str
    tally: Tally


def run_targets(
    pairs_file: str,
    answers_folder: str,
    out: str,
    *,
    split: str = "train",
    views: str = "random",
    turns: str = "one",
    flagged: str = "drop",
    teacher: str | None = None,
    seed: int = 0,
    video_folder: str | None = None,
    mix: Mix | None = None,
    allow_missing: bool = False,
) -> Written:
    """Write the training file.

    Raises:
        Ego2ExoError: whatever is wrong with pairs, answers and the data to mix in, in one message.
    """
    folder = os.path.dirname(os.path.abspath(pairs_file)) if video_folder is None else video_folder
    choices = Choices(os.path.abspath(folder), views=views, turns=turns, flagged=flagged, seed=seed)
    _check_paths(out, video_folder, pairs_file, mix)
    faults = Faults()
    pairs = _caught(lambda: read_pairs(pairs_file), faults) or []
    answers = _caught(lambda: only_teacher(_read_answers(answers_folder), teacher), faults) or []
    chosen = [pair for pair in pairs if pair.split == split]
    notes = _check(pairs, chosen, split, answers, allow_missing, faults)
    faults.raise_if_any()
    samples, tally = make_samples(chosen, answers, choices)
    replayed = _replay(mix, len(samples), choices) if mix else []
    notes += _check_videos(chosen, answers, answers_folder)
    file = write_samples(out, mix_in(samples, replayed, seed))
    lines = report(tally, choices, split, teacher_name(answers[0]), notes)
    lines += replay_report(mix, replayed, tally.samples) + training_flags(file, choices, mix, [*samples, *replayed])
    return Written("\n".join(lines), tally)


def _check_paths(out: str, folder: str | None, pairs_file: str, mix: Mix | None) -> None:
    if not out.endswith(".json") or os.path.isdir(out):
        raise Ego2ExoError(f"--out {out}", "a file that ends in .json, as LLaVA reads it", "give --out train.json")
    above = next(place for place in Path(os.path.abspath(out)).parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        given = f"--out {out}: {above} is no folder that you may write in"
        raise Ego2ExoError(given, "a file in a folder of yours", "give another --out")
    if folder is not None and not os.path.isdir(folder):
        raise Ego2ExoError(f"--video-folder {folder} is no folder", "a folder", "give the one to train with")
    read = [pairs_file, *([mix.file] if mix else [])]
    if any(os.path.exists(out) and os.path.exists(file) and os.path.samefile(out, file) for file in read):
        raise Ego2ExoError(f"--out {out} would overwrite what it is made from", "another file", "give another --out")
    if mix and not os.path.isfile(mix.file):
        raise Ego2ExoError(f"--mix {mix.file} is no file", "a JSON list of LLaVA samples", "check the path")
    if mix:
        check_ratio(mix.ratio)
    for flag, given in (("video", mix and mix.video_folder), ("image", mix and mix.image_folder)):
        if given and not os.path.isdir(given):
            raise Ego2ExoError(f"--mix-{flag}-folder {given} is no folder", "a folder", "check the path")


def _read_answers(folder: str) -> list[Answer]:
    place = Path(folder)
    parts = sorted(place.glob("answers.part-*.jsonl"))
    if parts and not (place / "answers.jsonl").is_file():
        raise Ego2ExoError(
            f"{folder} is not finished: it holds {len(parts)} answers.part file(s) and no answers.jsonl",
            "the folder of a finished run",
            "run the same `llava-ego2exo teach` again, which goes on where it stopped",
        )
    answers = read_answers(folder)
    if not answers:
        raise Ego2ExoError(f"{folder} holds no answer", "one or more", "run `llava-ego2exo teach` first")
    return answers


def _caught(read: Callable[[], Read], faults: Faults) -> Read | None:
    try:
        return read()
    except Ego2ExoError as error:
        faults.caught(error)
        return None


def _check(
    pairs: Sequence[Pair],
    chosen: Sequence[Pair],
    split: str,
    answers: Sequence[Answer],
    allow_missing: bool,
    faults: Faults,
) -> list[str]:
    """All checks that the two inputs allow; returns what is to be told though it is no fault."""
    notes = []
    if pairs and not chosen:
        there = ", ".join(f"{name} ({count})" for name, count in Counter(pair.split for pair in pairs).items())
        faults.caught(Ego2ExoError(f"no pair is of split {split}", there, "give --split one of these"))
    check_pairs(chosen, faults)
    if not pairs or not answers:
        return notes
    check_answers(answers, faults)
    leaking = [f"{take} ({', '.join(splits)})" for take, splits in leaks(pairs).items() if split in splits]
    faults.add(
        leaking,
        "take(s) are in several splits, so that the student would be tested on what it has seen",
        "give each take one split; `llava-ego2exo pairs check --write-clean` leaves out all but the first",
    )
    strangers, missing = unmatched(chosen, [pair.segment for pair in pairs], answers)
    for offenders, what, remedy in (
        (strangers, "answer(s) are of segments that the pairs lack", "give the pairs that the teacher was given"),
        (missing, "answer(s) of the pairs are missing", "run `llava-ego2exo teach` with these pairs"),
    ):
        if offenders and allow_missing:
            notes.append(f"allowed: {len(offenders)} {what}: {shorten_list(offenders, LISTED)}")
        else:
            faults.add(offenders, what, f"{remedy}, or give --allow-missing")
    return notes


def _check_videos(pairs: Sequence[Pair], answers: Sequence[Answer], folder: str) -> list[str]:
    """Last of all checks, as it may have to read ego videos."""
    faults = Faults()
    unknown = check_videos(pairs, answers, folder, faults)
    faults.raise_if_any()
    return [f"answered before they were cut, so matched by name alone: {len(unknown)} segment(s)"] if unknown else []


def _replay(mix: Mix, distilled: int, choices: Choices) -> list[dict[str, Any]]:
    videos, images = mix.folders
    count = replay_count(distilled, mix.ratio)
    drawn = draw_replayed(mix.file, count, choices.seed, videos, images)
    return relocate(drawn, videos, choices.video_folder)
