"""What the demo trains on: a LLaVA JSON, and its questions and answers to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import Ego2ExoError
from ..video import read_video
from .render import render_set, sample, write_samples

QUESTION = "What is this video?"


@dataclass(frozen=True)
class Item:
    """One question about one video file, and the answer that is trained."""

    video: str
    question: str
    answer: str


@dataclass(frozen=True)
class Material:
    """A training JSON, the folder of its videos, and its items."""

    data: Path
    folder: Path
    items: list[Item]


def rendered(folder: Path) -> Material:
    """Videos that the demo draws."""
    return from_json(folder, render_set(folder))


def from_json(folder: Path, data: Path) -> Material:
    """A training JSON as it is; each video sample's first question and answer are asked.

    Args:
        folder: of the videos.
        data: the JSON file.

    Raises:
        Ego2ExoError: it is not there, no JSON, or without a question about a video.
    """
    from ..host.data_check import data_files, read_samples

    items = []
    for entry in (entry for file in data_files(str(data)) for entry in read_samples(file)):
        entry = entry if isinstance(entry, dict) else {}
        video, turns = entry.get("video"), entry.get("conversations")
        if isinstance(video, str) and isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
            texts = [str(turn.get("value", "")).replace("<image>", "").strip() for turn in turns]
            items += [Item(str(folder / video), *texts[:2])] if len(texts) > 1 else []
    if not items:
        raise Ego2ExoError(f"{data} asks nothing about a video", 'samples with "video" and two "conversations" turns')
    return Material(data, folder, items)


def from_videos(folder: Path, data: Path, limit: int) -> tuple[Material, list[str]]:
    """A training JSON made from a folder of videos: each is to be told by its file's name.

    Args:
        folder: of the videos, not searched further down.
        data: the JSON file to write.
        limit: most videos.

    Returns:
        The material, and one line for each file left out.

    Raises:
        Ego2ExoError: no file there decodes.
    """
    samples, left_out = [], []
    for file in sorted(entry for entry in folder.iterdir() if entry.is_file()):
        if len(samples) == limit:
            left_out.append(f"{file.name}: --limit {limit} is reached")
            continue
        try:
            read_video(str(file), frames_upbound=2)
        except Ego2ExoError as error:
            left_out.append(str(error))
        else:
            samples.append(sample(file.name, f"This is {file.stem.replace('_', ' ')}.", QUESTION))
    if not samples:
        raise Ego2ExoError(f"--videos {folder}: no file there decodes", "a folder of video files")
    return from_json(folder, write_samples(data, samples)), left_out
