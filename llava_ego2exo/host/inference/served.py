"""A model behind an OpenAI-compatible port in the place of a checkpoint: ``openai:http://host:8000/v1#NAME``.

It answers as an :class:`~.answerer.Answerer` does; vLLM or SGLang on any number of machines can be the engine.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from ...common.endpoints import environment_key, reason_of, reply_text, shown_url
from ...errors import Ego2ExoError, refuse, require_package
from ..checkpoint.files import fingerprint
from .answerer import Answerer, Generation, load_answerer
from .settings import InferenceOptions, InferenceSettings, resolve_inference_settings

_FORM = re.compile(r"openai:(https?://[^\s#]+)#(\S+)")
_RETRIES, _TIMEOUT = 5, 300.0
_IN_A_ROW = 8  # failures of the server, after which it counts as down


@dataclass(frozen=True)
class ServedModel:
    """Where a model is served, and its name there."""

    url: str
    name: str

    @property
    def shown(self) -> str:
        """For messages: without user and password."""
        return f"{self.name} at {shown_url(self.url)}"


def served_model(path: str) -> ServedModel | None:
    """The model that a path means; None where it means a checkpoint.

    Raises:
        Ego2ExoError: it begins as such a path, and is none.
    """
    if not path.startswith("openai:"):
        return None
    found = _FORM.fullmatch(path)
    if found is None:
        raise Ego2ExoError(f"the model {path}", "openai:http://HOST:PORT/v1#NAME", "name the port and the model there")
    return ServedModel(*found.groups())


def served_settings(model: ServedModel, options: InferenceOptions, max_new_tokens: int) -> InferenceSettings:
    """How it is asked: what no server knows, and a checkpoint's config would say, must be given or is off."""
    require_package("openai", "judge")
    refuse(
        (options.template, f"--template for {model.name}, which is served", "no template: the server has it", ""),
        (options.bits != 16 or options.dtype, f"--bits or --dtype for {model.name}, which is served", "neither", ""),
    )  # fmt: skip
    return InferenceSettings(
        template=f"openai, JPEG {options.image_quality}, side {options.image_side or 'as it is'}",
        frames_upbound=options.frames_upbound, video_fps=options.video_fps,
        force_sample=bool(options.force_sample), time_instruction=bool(options.time_instruction),
        max_new_tokens=max_new_tokens,
    )  # fmt: skip


def model_settings(path: str, base: str | None, options: InferenceOptions, max_new_tokens: int) -> InferenceSettings:
    """How a checkpoint, or a served model, is asked, as :func:`~.settings.resolve_inference_settings`."""
    served = served_model(path)
    if served is None:
        return resolve_inference_settings(path, base, options, max_new_tokens)
    return served_settings(served, options, max_new_tokens)


def model_fingerprint(path: str, base: str | None = None) -> str:
    """What an answer's identity holds of a model: a checkpoint's content, or a served one's name; not its address."""
    served = served_model(path)
    return (
        fingerprint(path, base) if served is None else hashlib.sha256(f"openai {served.name}".encode()).hexdigest()[:32]
    )


def open_answerer(
    path: str, base: str | None, settings: InferenceSettings, options: InferenceOptions, local_rank: int | None = None,
    top_k: int = 0,
) -> Answerer | ServedAnswerer:  # fmt: skip
    """A checkpoint, loaded as :func:`~.answerer.load_answerer` does, or a served model."""
    served = served_model(path)
    return (
        load_answerer(path, base, settings, local_rank, top_k)
        if served is None
        else ServedAnswerer(served, settings, options)
    )


class ServedAnswerer:
    """Asks a served model, greedily; the queries about a clip one after the other, so that its prefix is cached there.

    The client retries what may succeed later, and waits as long as Retry-After says.

    Args:
        model: where it is.
        settings: how it is asked.
        options: key, size and quality of pictures; `workers` clips are asked about at the same time.

    Raises:
        Ego2ExoError: the server does not answer, or serves no such model.
    """

    def __init__(self, model: ServedModel, settings: InferenceSettings, options: InferenceOptions) -> None:
        self.model, self.settings, self.options = model, settings, options
        openai, key = require_package("openai", "judge"), options.api_key_env
        self._errors, self._key = openai.OpenAIError, environment_key(key, "--api-key-env") if key else "none"
        self._api = openai.OpenAI(base_url=model.url, api_key=self._key, timeout=_TIMEOUT, max_retries=_RETRIES)
        self._failed, self._lock = 0, threading.Lock()
        try:
            names = [one.id for one in self._api.with_options(timeout=20, max_retries=1).models.list().data]
        except (self._errors, ValueError) as error:
            raise Ego2ExoError(
                f"{model.shown}: {reason_of(error, self._key)}",
                "a server that answers",
                "check the address, which mostly ends in /v1",
            ) from error
        if model.name not in names:
            raise Ego2ExoError(f"{model.shown} is not served", ", ".join(names), "name one of these behind the #")

    def preprocess(self, frames: Any) -> list[str]:
        """Frames (T, H, W, 3) uint8 as JPEG data URLs, no side longer than `--image-side`."""
        from PIL import Image

        found = []
        for frame in frames:
            image, out = Image.fromarray(frame), io.BytesIO()
            if self.options.image_side:
                image.thumbnail((self.options.image_side, self.options.image_side))
            image.save(out, "JPEG", quality=self.options.image_quality)
            found.append("data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode())
        return found

    def answer(
        self, clips: Sequence[list[str]], questions: Sequence[Sequence[str]]
    ) -> list[list[Generation] | Ego2ExoError]:
        """Answers to each clip's questions; an error for a clip with one that could not be had.

        Raises:
            Ego2ExoError: the server is down.
        """
        with ThreadPoolExecutor(min(self.options.workers, max(len(clips), 1))) as pool:
            found = list(pool.map(self._clip, clips, questions))
        if self._failed >= _IN_A_ROW:
            last = next(one.given for one in reversed(found) if isinstance(one, Ego2ExoError))
            raise Ego2ExoError(f"{self.model.shown} has stopped answering: {last}", "a server that answers",
                               "start it again, and run the same command again, which resumes from here")  # fmt: skip
        return found

    def _clip(self, pictures: list[str], questions: Sequence[str]) -> list[Generation] | Ego2ExoError:
        if self._failed >= _IN_A_ROW:
            return Ego2ExoError("not asked, as the server had stopped answering")
        try:
            return [self._one(pictures, text) for text in questions]
        except (self._errors, ValueError) as error:
            status = getattr(error, "status_code", 0)
            with self._lock:  # a request that is refused is no fault of the server
                self._failed = 0 if status in (400, 413, 422) else self._failed + 1
            return Ego2ExoError(f"{self.model.name} gave no answer: {reason_of(error, self._key)}")

    def _one(self, pictures: list[str], text: str) -> Generation:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        reply = self._api.chat.completions.create(
            model=self.model.name, messages=[{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
            max_tokens=self.settings.max_new_tokens, temperature=0,
        )  # fmt: skip
        answer = reply_text(reply).strip()
        with self._lock:
            self._failed = 0
        count = getattr(reply.usage, "completion_tokens", None) or len(answer.split())
        return Generation(answer, torch.zeros(count, dtype=torch.int64), reply.choices[0].finish_reason != "length")
