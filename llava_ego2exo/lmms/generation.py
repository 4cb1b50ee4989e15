"""lmms-eval's requests through a loaded model: each video is read once, whatever is asked about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError
from ..host.inference.clip_jobs import PreparedClip, prepare_clip, read_ahead
from ..host.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from ..host.inference.answerer import Answerer

# Values that leave decoding greedy. lmms-eval adds `until` by itself; a reply is taken whole, as `eval` takes it.
_GREEDY: dict[str, tuple[Any, ...]] = {
    "do_sample": (False, None), "temperature": (0, None, 1), "num_beams": (1, None), "top_p": (None, 1, 0),
}  # fmt: skip
_ALLOWED = ("max_new_tokens", "until")
# The default of LLaVA's wrappers in lmms-eval.
_DEFAULT_NEW_TOKENS = 1024


@dataclass(frozen=True)
class GenerationRequest:
    """One request of lmms-eval.

    Args:
        path: of its video.
        text: the prompt, without placeholder.
        new_tokens: most tokens of the reply.
    """

    path: str
    text: str
    new_tokens: int


@dataclass(frozen=True)
class _VideoRequests:
    """A whole video and the places of the requests about it."""

    path: str
    places: tuple[int, ...]
    start_s: float | None = None
    end_s: float | None = None


def max_new_tokens(wanted: Mapping[str, Any], task: str) -> int:
    """Most tokens of a reply.

    Args:
        wanted: generation arguments of the request.
        task: its name, for the message.

    Raises:
        Ego2ExoError: they ask for anything but a greedy reply.
    """
    given = {name: value for name, value in wanted.items() if name not in _ALLOWED}
    odd = [f"{name}={value}" for name, value in given.items() if value not in _GREEDY.get(name, ())]
    if odd:
        raise Ego2ExoError(
            f"task {task} generates with {', '.join(odd)}", "greedy replies: max_new_tokens alone", "drop --gen_kwargs"
        )
    return int(wanted.get("max_new_tokens", _DEFAULT_NEW_TOKENS))


def generate_replies(
    teacher: Answerer, settings: InferenceSettings, requests: Sequence[GenerationRequest], batch_size: int,
    quiet: bool = False,
) -> list[str]:  # fmt: skip
    """Replies in the order of the requests.

    Args:
        teacher: the model.
        settings: how clips are read.
        requests: about any videos, in any order.
        batch_size: clips at once.
        quiet: show no progress.

    Raises:
        Ego2ExoError: a video does not decode, is too long for the model, or the GPU's memory runs out.
    """
    from tqdm import tqdm

    replies = [""] * len(requests)
    with tqdm(total=len(requests), desc="llava_ego2exo", unit="question", disable=quiet) as bar:
        for length in dict.fromkeys(request.new_tokens for request in requests):
            teacher.max_new_tokens = length
            same = replace(settings, max_new_tokens=length)
            for places, texts in _replies_by_batch(teacher, same, requests, batch_size):
                for place, text in zip(places, texts, strict=True):
                    replies[place] = text
                bar.update(len(places))
    return replies


def _replies_by_batch(
    teacher: Answerer, settings: InferenceSettings, requests: Sequence[GenerationRequest], batch_size: int
) -> Iterator[tuple[list[int], list[str]]]:
    """Of the requests of one length, batch after batch: places and replies."""
    places: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        if request.new_tokens == settings.max_new_tokens:
            places.setdefault(request.path, []).append(place)
    clips = [_VideoRequests(path, tuple(own)) for path, own in places.items()]
    batches = [tuple(clips[first : first + batch_size]) for first in range(0, len(clips), batch_size)]
    for batch, seen in read_ahead(batches, lambda clip: prepare_clip(clip, settings, teacher.preprocess), 2):
        good = [_unless_error(clip, one) for clip, one in zip(batch, seen, strict=True)]
        texts = [
            [one.preface + requests[place].text for place in clip.places]
            for clip, one in zip(batch, good, strict=True)
        ]
        said = [_unless_error(clip, own) for clip, own in zip(batch, _answer(teacher, good, texts), strict=True)]
        yield [place for clip in batch for place in clip.places], [one.text for own in said for one in own]


def _answer(teacher: Answerer, clips: Sequence[PreparedClip], texts: Sequence[Sequence[str]]) -> list[Any]:
    from ..host.inference.answerer import explain_oom

    remedy = "give a smaller --batch_size, fewer max_frames_num, or load_4bit=True"
    with explain_oom(len(clips), sum(map(len, texts)), remedy):
        return teacher.answer([clip.pixels for clip in clips], texts)


def _unless_error(clip: _VideoRequests, found: Any) -> Any:
    """What was found; raises where it is an error, naming the clip."""
    if isinstance(found, Ego2ExoError):
        named = found.given if clip.path in found.given else f"{clip.path}: {found.given}"
        raise Ego2ExoError(named, found.allowed, found.remedy)
    return found
