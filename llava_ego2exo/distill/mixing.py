"""General data replayed among the samples of distillation, against forgetting."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Any

from ..config import Ego2ExoConfig
from ..errors import Ego2ExoError
from ..host.data_check import read_samples, sample_faults
from ..host.media_folders import MediaFolders
from ..runs.listing import listed
from .draws import shuffle_key

Sample = dict[str, Any]


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
            f"{len(faults)} fault(s) in the samples drawn for replay: {listed(faults)}",
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
