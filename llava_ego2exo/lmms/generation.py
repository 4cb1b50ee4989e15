"""lmms-eval's requests through a loaded model: each video is read once, whatever is asked about it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import Ego2ExoError
from ..host.inference.clip_jobs import ClipTask, PreparedClip, clip_batches, prepare_clip, read_ahead
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


class GenerationRequest(NamedTuple):
    """One request of lmms-eval: its video, the prompt without placeholder, the most tokens of the reply."""

    path: str
    text: str
    new_tokens: int


def max_new_tokens(wanted: Mapping[str, Any], task: str) -> int:
    """Most tokens of a reply, by the generation arguments of a request; raises where these are not greedy."""
    given = {name: value for name, value in wanted.items() if name not in _ALLOWED}
    odd = [f"{name}={value}" for name, value in given.items() if value not in _GREEDY.get(name, ())]
    if odd:
        raise Ego2ExoError(
            f"task {task} generates with {', '.join(odd)}", "greedy replies: max_new_tokens alone", "drop --gen_kwargs"
        )
    return int(wanted.get("max_new_tokens", _DEFAULT_NEW_TOKENS))


def generate_replies(
    answerer: Answerer, settings: InferenceSettings, requests: Sequence[GenerationRequest], batch_size: int,
    quiet: bool = False,
) -> list[str]:  # fmt: skip
    """Replies in the order of the requests, `batch_size` clips at once.

    Raises:
        Ego2ExoError: a video does not decode, is too long for the model, or the GPU's memory runs out.
    """
    from tqdm import tqdm

    replies = [""] * len(requests)
    with tqdm(total=len(requests), desc="llava_ego2exo", unit="question", disable=quiet) as bar:
        for length in dict.fromkeys(request.new_tokens for request in requests):
            places: dict[str, list[int]] = {}
            for place, request in enumerate(requests):
                if request.new_tokens == length:
                    places.setdefault(request.path, []).append(place)
            answerer.max_new_tokens = length
            tasks = [ClipTask(path, None, None, "", tuple(own)) for path, own in places.items()]
            prepare = functools.partial(prepare_clip, settings=settings, preprocess=answerer.preprocess)
            for batch, clips in read_ahead(clip_batches(tasks, batch_size), prepare, 2):
                asked = [task.questions for task in batch]
                good = [_unless_error(task.path, clip) for task, clip in zip(batch, clips, strict=True)]
                texts = [[clip.preface + requests[n].text for n in own] for clip, own in zip(good, asked, strict=True)]
                for task, found in zip(batch, _answer(answerer, good, texts), strict=True):
                    for place, reply in zip(task.questions, _unless_error(task.path, found), strict=True):
                        replies[place] = reply.text
                bar.update(sum(map(len, asked)))
    return replies


def _answer(answerer: Answerer, clips: Sequence[PreparedClip], texts: Sequence[Sequence[str]]) -> list[Any]:
    from ..host.inference.answerer import explain_oom

    remedy = "pass a smaller --batch_size, fewer max_frames_num, or load_4bit=True"
    with explain_oom(len(clips), sum(map(len, texts)), remedy):
        return answerer.answer([clip.pixels for clip in clips], texts)


def _unless_error(path: str, found: Any) -> Any:
    """What was found; raises where it is an error, naming the video."""
    if isinstance(found, Ego2ExoError):
        given = found.given if path in found.given else f"{path}: {found.given}"
        raise Ego2ExoError(given, found.allowed, found.remedy)
    return found
