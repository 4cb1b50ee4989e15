"""From pairs and teacher answers to LLaVA's training JSON (paper section 3.1: sequence distillation)."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.draws import draw, shuffle_key
from ...common.files import write_atomic
from ...common.text import shorten_list
from ...config import Ego2ExoConfig
from ...errors import Ego2ExoError
from ...host.preflight.data import MediaFolders, read_samples, sample_faults
from ..teach.quality import CUT

if TYPE_CHECKING:
    from ..pairs.pair import Pair
    from ..teach.store import Answer


# General data replayed among the samples of distillation, against forgetting.


@dataclass(frozen=True)
class Mix:
    """General data to replay.

    Args:
        file: a LLaVA JSON.
        ratio: the share of replayed samples among all that are written.
        video_folder: what the file's videos are relative to; None: its own folder.
        image_folder: what its images are relative to; None: its own folder.
    """

    file: str
    ratio: float
    video_folder: str | None = None
    image_folder: str | None = None

    @property
    def folders(self) -> tuple[str, str]:
        """The video and the image folder, absolute."""
        own = os.path.dirname(os.path.abspath(self.file))
        return os.path.abspath(self.video_folder or own), os.path.abspath(self.image_folder or own)


def replay_count(distilled: int, ratio: float) -> int:
    """How many samples to replay so that they are the share `ratio` of all that are written.

    Raises:
        Ego2ExoError: the ratio is no share, or so small that it asks for less than half a sample.
    """
    check_ratio(ratio)
    share = Fraction(str(ratio))
    count = round(share * distilled / (1 - share))
    if count < 1:
        raise Ego2ExoError(
            f"--mix-ratio {ratio} of {distilled} samples is none", f"{1 / (distilled + 1):.2g} or more for one sample"
        )
    return count


def check_ratio(ratio: float) -> None:
    """Raises: Ego2ExoError: the ratio is no share."""
    if not 0 < ratio < 1:
        raise Ego2ExoError(f"--mix-ratio {ratio}", "a share of all samples: more than 0, less than 1", "give 0.2")


def draw_replayed(file: str, count: int, seed: int, video_folder: str, image_folder: str) -> list[Sample]:
    """Samples of a LLaVA JSON, drawn without repeat, each checked and marked `"replay": true`.

    A draw hangs on the seed and the sample's content, not on its place in the file.

    Args:
        file: the JSON list.
        count: how many.
        seed: of the draws.
        video_folder: what the file's videos are relative to.
        image_folder: what its images are relative to.

    Raises:
        Ego2ExoError: there are too few samples, or drawn ones are faulty; all of these are counted.
    """
    samples = _read(file)
    if len(samples) < count:
        raise Ego2ExoError(
            f"--mix {file} holds {len(samples)} samples, and the ratio asks for {count}",
            f"{count} samples or more, as none is drawn twice",
            "give a smaller --mix-ratio, or a larger file",
        )
    drawn = _shuffled(samples, seed)[:count]
    media = MediaFolders({"video_folder": video_folder, "image_folder": image_folder})
    faults = [f"{file}[{index}]: {fault}" for index in drawn for fault in _faults(samples[index], media)]
    if faults:
        raise Ego2ExoError(
            f"{len(faults)} fault(s) in the samples drawn for replay: {shorten_list(faults)}",
            "LLaVA's samples, with videos under --mix-video-folder and images under --mix-image-folder",
            "fix these samples, or name the folders of their files",
        )
    return [{**samples[index], "replay": True} for index in drawn]


def relocate(samples: Sequence[Sample], video_folder: str, target_folder: str) -> list[Sample]:
    """The samples with their videos named as the training command finds them under another `--video_folder`.

    Images stay as they are: the distillation samples have none, so `--image_folder` is the replayed data's own.
    """
    return [
        {**sample, "video": relative_to(target_folder, os.path.join(video_folder, sample["video"]))}
        if "video" in sample
        else sample
        for sample in samples
    ]


def relative_to(folder: str, path: str) -> str:
    """A path as it stands in a training file: relative to the folder where it lies below it, else absolute."""
    folder, path = os.path.abspath(folder), os.path.abspath(path)
    below = os.path.commonpath([folder, path]) == folder
    return (os.path.relpath(path, folder) if below else path).replace(os.sep, "/")


def mix_in(samples: Sequence[Sample], replayed: Sequence[Sample], seed: int) -> list[Sample]:
    """Both lists in one; the samples keep their order, the replayed ones stand at places drawn by the seed."""
    total = len(samples) + len(replayed)
    places = sorted(range(total), key=lambda place: shuffle_key(seed, "place", place))[: len(replayed)]
    taken, ours, others = set(places), iter(samples), iter(replayed)
    return [next(others) if place in taken else next(ours) for place in range(total)]


def _read(file: str) -> list[Any]:
    try:
        return read_samples(file)
    except (OSError, UnicodeDecodeError) as error:
        raise Ego2ExoError(f"--mix {file} cannot be read: {error}", "a JSON list of LLaVA samples") from error


def _shuffled(samples: Sequence[Any], seed: int) -> list[int]:
    """Indices in an order drawn by the seed; equal samples are told apart by how often they came before."""
    names = [sha256(json.dumps(sample, sort_keys=True).encode()).hexdigest() for sample in samples]
    seen: Counter[str] = Counter()
    keys = []
    for name in names:
        keys.append(shuffle_key(seed, "replay", name, seen[name]))
        seen[name] += 1
    return sorted(range(len(samples)), key=keys.__getitem__)


def _faults(sample: Any, media: MediaFolders) -> list[str]:
    faults = list(sample_faults(sample, media, Ego2ExoConfig()))
    if isinstance(sample, dict) and "ego_video" in sample:
        faults.append("is of distillation itself (has ego_video): LLaVA-NeXT takes two files as --data_path {a,b}.json")
    return faults


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
    return write_atomic(out, json.dumps(samples, indent=1, sort_keys=True) + "\n")


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
