"""`llava-ego2exo targets`: read, check, draw, write and report."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.files import require_writable
from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ..pairs.file import read_pairs
from ..teach.store import read_answers
from .checks import Faults, check_answers, check_pairs, check_splits, check_videos, only_teacher, teacher_name
from .replay import Mix, draw_replayed, mix_in, relocate
from .samples import Sample, SampleCounts, SampleOptions, make_samples, write_samples

if TYPE_CHECKING:
    from ..pairs.pair import Pair
    from ..teach.store import Answer

_SHOWN = 20


def run_targets(
    pairs_file: str, answers_folder: str, out: str, *, split: str = "train", views: str = "random", turns: str = "one",
    flagged: str = "drop", teacher: str | None = None, seed: int = 0, video_folder: str | None = None,
    mix: Mix | None = None, allow_missing: bool = False,
) -> str:  # fmt: skip
    """Write the training file and return the report; arguments as the flags of `llava-ego2exo targets`.

    Raises:
        Ego2ExoError: names all faults of pairs, answers and general data.
    """
    _check_paths(out, video_folder, pairs_file, mix)
    folder = os.path.abspath(os.path.dirname(os.path.abspath(pairs_file)) if video_folder is None else video_folder)
    options = SampleOptions(folder, views=views, turns=turns, flagged=flagged, seed=seed)
    faults = Faults()
    pairs = faults.catch(lambda: read_pairs(pairs_file)) or []
    answers = faults.catch(lambda: only_teacher(_read_answers(answers_folder), teacher)) or []
    chosen = faults.catch(lambda: _of_split(pairs, split)) or []
    check_pairs(chosen, faults)
    notes = _check_both(pairs, chosen, split, answers, allow_missing, faults) if pairs and answers else []
    faults.raise_if_any()
    samples, counts = make_samples(chosen, answers, options)
    replayed = []
    if mix:
        replayed = relocate(draw_replayed(mix, mix.count(len(samples)), seed), mix.folders[0], folder)
        share = len(replayed) / (len(replayed) + len(samples))
        notes.append(f"replayed: {len(replayed)} sample(s) of {mix.file}, {share:.1%} of all")
    unknown = check_videos(chosen, answers, answers_folder, faults)  # last, as it may have to read ego videos
    faults.raise_if_any()
    notes += [f"answered before they were cut, so matched by name alone: {len(unknown)} segment(s)"] * bool(unknown)
    file = write_samples(out, mix_in(samples, replayed, seed))
    report = _report(counts, options, split, teacher_name(answers[0]))
    return "\n".join([*report, *notes, *_training_flags(file, folder, mix, [*samples, *replayed])])


def _check_paths(out: str, folder: str | None, pairs_file: str, mix: Mix | None) -> None:
    if not out.endswith(".json"):
        raise Ego2ExoError(f"--out {out}", "a file that ends in .json, as LLaVA reads it", "pass --out train.json")
    require_writable(out, "--out")
    if folder is not None and not os.path.isdir(folder):
        raise Ego2ExoError(f"--video-folder {folder} is no folder", "a folder", "pass the one to train with")
    read = [pairs_file, *([mix.file] if mix else [])]
    if any(os.path.exists(out) and os.path.exists(file) and os.path.samefile(out, file) for file in read):
        raise Ego2ExoError(f"--out {out} would overwrite what it is made from", "another file", "pass another --out")
    if mix:
        mix.check()


def _read_answers(folder: str) -> list[Answer]:
    parts = sorted(Path(folder).glob("answers.part-*.jsonl"))
    if parts and not Path(folder, "answers.jsonl").is_file():
        raise Ego2ExoError(
            f"{folder} is not finished: it holds {len(parts)} answers.part file(s) and no answers.jsonl",
            "the folder of a finished run",
            "run the same `llava-ego2exo teach` again, which resumes",
        )
    answers = read_answers(folder)
    if not answers:
        raise Ego2ExoError(f"{folder} holds no answer", "one or more", "run `llava-ego2exo teach` first")
    return answers


def _of_split(pairs: Sequence[Pair], split: str) -> list[Pair]:
    chosen = [pair for pair in pairs if pair.split == split]
    if pairs and not chosen:
        splits = ", ".join(f"{name} ({count})" for name, count in Counter(pair.split for pair in pairs).items())
        raise Ego2ExoError(f"no pair is of split {split}", splits, "pass --split with one of these")
    return chosen


def _check_both(
    pairs: Sequence[Pair], chosen: Sequence[Pair], split: str, answers: Sequence[Answer], allow_missing: bool,
    faults: Faults,
) -> list[str]:  # fmt: skip
    """Check answers, and pairs against answers; returns remarks for the report."""
    check_answers(answers, faults)
    check_splits(pairs, split, faults)
    known, given = {pair.segment for pair in pairs}, {(a.segment, a.kind) for a in answers}
    kinds = sorted({kind for _, kind in given})
    unknown = [f"{a.segment} {a.kind}" for a in answers if a.segment not in known]
    missing = [f"{p.segment} {kind}" for p in chosen for kind in kinds if (p.segment, kind) not in given]
    remarks = []
    for offenders, what, remedy in (
        (unknown, "answer(s) are of segments that the pairs lack", "pass the pairs that the teacher was given"),
        (missing, "answer(s) of the pairs are missing", "run `llava-ego2exo teach` with these pairs"),
    ):
        if offenders and allow_missing:
            remarks.append(f"allowed: {len(offenders)} {what}: {shorten_list(offenders, _SHOWN)}")
        else:
            faults.add(offenders, what, f"{remedy}, or pass --allow-missing")
    return remarks


def _report(counts: SampleCounts, options: SampleOptions, split: str, teacher: str) -> list[str]:
    def listing(counter: Counter[str]) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))

    lines = [
        f"samples: {counts.samples} from {counts.segments} segment(s) of split {split}, seed {options.seed}",
        f"answers: {listing(counts.kinds)}; teacher {teacher}",
        f"views: {listing(counts.views)} ({options.views})",
    ]
    for flag, names in sorted(counts.dropped.items()):
        lines.append(f"dropped, {flag}: {len(names)} answer(s): {shorten_list(names, _SHOWN)}")
    return lines


def _training_flags(file: Path, folder: str, mix: Mix | None, samples: Sequence[Sample]) -> list[str]:
    """The data flags of the training command, to paste."""
    flags = ["--data_path", str(file), "--video_folder", folder]
    if mix and any("image" in sample for sample in samples):
        flags += ["--image_folder", mix.folders[1]]
    return [f"wrote {file}; train with:", f"  {shlex.join(flags)}"]
