"""General data replayed among the samples of distillation, against forgetting."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Any

from ...common.draws import shuffle_key
from ...common.text import shorten_list
from ...config import Ego2ExoConfig
from ...errors import Ego2ExoError
from ...host.preflight.data import RowCheck, RowRules, read_samples
from .samples import Sample, relative_to


@dataclass(frozen=True)
class Mix:
    """General data to replay: a LLaVA JSON, the share of all samples, and folders (None: that of the file)."""

    file: str
    ratio: float
    video_folder: str | None = None
    image_folder: str | None = None

    @property
    def folders(self) -> tuple[str, str]:
        """The video and the image folder, absolute."""
        own = os.path.dirname(os.path.abspath(self.file))
        return os.path.abspath(self.video_folder or own), os.path.abspath(self.image_folder or own)

    def check(self) -> None:
        """Check the ratio, and that file and folders exist."""
        if not 0 < self.ratio < 1:
            allowed = "a share of all samples: more than 0, less than 1"
            raise Ego2ExoError(f"--mix-ratio {self.ratio}", allowed, "pass 0.2")
        if not os.path.isfile(self.file):
            raise Ego2ExoError(f"--mix {self.file} is no file", "a JSON list of LLaVA samples", "check the path")
        for flag, folder in (("video", self.video_folder), ("image", self.image_folder)):
            if folder and not os.path.isdir(folder):
                raise Ego2ExoError(f"--mix-{flag}-folder {folder} is no folder", "a folder", "check the path")

    def count(self, distilled: int) -> int:
        """Number of samples to replay among `distilled` samples of distillation."""
        share = Fraction(str(self.ratio))
        count = round(share * distilled / (1 - share))
        if count < 1:
            given = f"--mix-ratio {self.ratio} of {distilled} samples is none"
            raise Ego2ExoError(given, f"{1 / (distilled + 1):.2g} or more for one sample")
        return count


def draw_replayed(mix: Mix, count: int, seed: int) -> list[Sample]:
    """Samples of the general data, drawn without repeat, each checked and marked `"replay": true`.

    A draw depends on the seed and the sample's content, not on its place in the file.
    """
    samples = read_samples(mix.file)
    if len(samples) < count:
        given = f"--mix {mix.file} holds {len(samples)} samples, and the ratio asks for {count}"
        raise Ego2ExoError(given, "enough, as none is drawn twice", "pass a smaller --mix-ratio, or a larger file")
    drawn = _shuffled(samples, seed)[:count]
    folders = dict(zip(("video_folder", "image_folder"), mix.folders, strict=True))
    check = RowCheck(folders, Ego2ExoConfig(), RowRules(image_lists=True))
    faults = [f"{mix.file}[{index}]: {fault}" for index in drawn for fault in _faults(samples[index], check)]
    if faults:
        raise Ego2ExoError(
            f"{len(faults)} fault(s) in the samples drawn for replay: {shorten_list(faults)}",
            "LLaVA's samples, with videos under --mix-video-folder and images under --mix-image-folder",
            "fix these samples, or pass the folders of their files",
        )
    return [{**samples[index], "replay": True} for index in drawn]


def _shuffled(samples: Sequence[Any], seed: int) -> list[int]:
    """Indices in an order drawn by the seed; equal samples count as different ones."""
    repeats: Counter[str] = Counter()
    keys = []
    for sample in samples:
        name = sha256(json.dumps(sample, sort_keys=True).encode()).hexdigest()
        keys.append(shuffle_key(seed, "replay", name, repeats[name]))
        repeats[name] += 1
    return sorted(range(len(samples)), key=keys.__getitem__)


def _faults(sample: Any, check: RowCheck) -> Iterator[str]:
    yield from (text for _, text in check.faults(sample))
    if isinstance(sample, dict) and "ego_video" in sample:
        yield "is of distillation itself (has ego_video): LLaVA-NeXT takes two files as --data_path {a,b}.json"


def relocate(samples: Sequence[Sample], video_folder: str, target_folder: str) -> list[Sample]:
    """The samples with their videos relative to another `--video_folder`.

    Images stay as they are: samples of distillation have none, so `--image_folder` is the replayed data's own.
    """
    return [
        {**sample, "video": relative_to(target_folder, os.path.join(video_folder, sample["video"]))}
        if "video" in sample
        else sample
        for sample in samples
    ]


def mix_in(samples: Sequence[Sample], replayed: Sequence[Sample], seed: int) -> list[Sample]:
    """Both lists in one: the samples in their order, the replayed ones at places drawn by the seed."""
    total = len(samples) + len(replayed)
    places = set(sorted(range(total), key=lambda place: shuffle_key(seed, "place", place))[: len(replayed)])
    distilled, general = iter(samples), iter(replayed)
    return [next(general) if place in places else next(distilled) for place in range(total)]
