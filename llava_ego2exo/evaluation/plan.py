"""What a run asks: the wording of each question, and each clip once with all its questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..common.record_store import content_key
from ..errors import Ego2ExoError
from ..host.inference.clip_jobs import ClipTask
from ..video import video_seconds
from ..video.limits import VideoLimits
from .benchmarks.current import split_into_clips
from .items import CHOICE, DESCRIPTION, Item

# The wording that the published numbers were made with. Part of every reply's key and of metrics.json.
VERSION = "published-1"


def prompt_of(item: Item) -> str:
    """The text that a model gets with the clip, without placeholder and chat template."""
    if item.kind != CHOICE:
        return item.question
    options = " ".join(f"({key}) {text}" for key, text in item.choices.items())
    return f"{item.question} The output should be the choice among one of the following choices. Choices are {options}"


@dataclass(frozen=True)
class ItemQuestion:
    """One item as it is asked.

    Args:
        id: of the item.
        key: of its reply.
        text: without placeholder and template.
        options: keys of the options; empty for a description.
    """

    id: str
    key: str
    text: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class EvalPlan:
    """What one model is asked in one mode.

    Args:
        tasks: each clip once, in order of the items.
        keys: item's id -> key of its reply, in order of the items.
    """

    tasks: list[ClipTask[ItemQuestion]] = field(default_factory=list)
    keys: Mapping[str, str] = field(default_factory=dict)


def make_plan(items: Sequence[Item], hashes: Mapping[str, str], asking: Sequence[object]) -> EvalPlan:
    """All questions of a clip stand together, so that it is decoded and encoded once.

    Args:
        items: those whose video was found.
        hashes: path -> sha256 of the file.
        asking: all that a reply depends on beside clip and question: mode, model, settings.
    """
    clips: dict[tuple[str, float | None, float | None], list[ItemQuestion]] = {}
    keys = {}
    for item in items:
        text, options = prompt_of(item), tuple(item.choices)
        # As floats: 3 and 3.0 are one moment.
        span = [None if second is None else float(second) for second in (item.start_s, item.end_s)]
        keys[item.id] = key = content_key([item.id, hashes[item.path], *span, text, options, VERSION, *asking])
        questions = clips.setdefault((item.path, item.start_s, item.end_s), [])
        questions.append(ItemQuestion(item.id, key, text, options))
    tasks = [ClipTask(*place, hashes[place[0]], tuple(questions)) for place, questions in clips.items()]
    return EvalPlan(tasks, keys)


def split_long(items: Sequence[Item], seconds: float = 1.0, limits: VideoLimits | None = None) -> list[Item]:
    """The items, each description of a whole video as those of its clips, as TSU-Description asks for them.

    Args:
        items: with their paths.
        seconds: of a clip.
        limits: what a video may be; None: the defaults.
    """
    return [part for item in items for part in _parts(item, seconds, limits)]


def _parts(item: Item, seconds: float, limits: VideoLimits | None) -> list[Item]:
    if item.kind != DESCRIPTION or item.part or not item.path:
        return [item]
    try:
        duration = video_seconds(item.path, limits)
    except Ego2ExoError:
        return [item]  # what does not open here fails by name when its turn comes
    return split_into_clips(item, duration, seconds)
