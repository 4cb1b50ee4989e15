"""From a request to a job in the queue, and back: reading what it shows, waiting for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request

from ..errors import Ego2ExoError
from ..host.inference.settings import prompt
from ..host.inference.steering import Row
from ..video import read_video
from .engine import Engine, Job
from .media import clip_of
from .protocol import ChatRequest, Choice, conversation

if TYPE_CHECKING:
    from ..host.inference.ask import VideoModel
    from ..host.inference.clip_jobs import PreparedClip
    from ..video import Clip
    from ..video.limits import VideoLimits
    from .settings import ServeSettings

_POLL = 0.5  # seconds between looks at whether a client is still there


class Waiting:
    """A job, and what the engine's thread reports of it, in the event loop's."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.loop = engine, asyncio.get_running_loop()
        self.events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.job: Job = None  # type: ignore[assignment]

    def put(self, kind: str, value: Any) -> None:
        """From any thread."""
        self.loop.call_soon_threadsafe(self.events.put_nowait, (kind, value))

    async def result(self, request: Request) -> Any:
        """Wait for the end; a client that goes away cancels it."""
        try:
            while True:
                try:
                    kind, value = await asyncio.wait_for(self.events.get(), _POLL)
                except TimeoutError:
                    if await request.is_disconnected():
                        raise ConnectionAbortedError from None
                    continue
                if kind == "done":
                    if isinstance(value, Exception):
                        raise value
                    return value
        finally:
            self.engine.cancel(self.job)


@dataclass(frozen=True)
class Intake:
    """What takes requests: the engine, its models by name, and the bounds.

    `limits` are of the videos that requests show; None: the defaults.
    """

    engine: Engine
    models: dict[str, VideoModel]
    settings: ServeSettings
    limits: VideoLimits | None = None

    async def shown(self, name: str, pictures: list[str], video: str | None) -> tuple[Clip, PreparedClip]:
        """The clip of a request, and as the model sees it."""
        model = self.models[name]
        how = model.settings

        def read(path: str) -> Clip:
            return read_video(path, how.video_fps, how.frames_upbound, how.force_sample, limits=self.limits)

        clip = await asyncio.to_thread(clip_of, pictures, video, self.settings, read, how.frames_upbound)
        return clip, await asyncio.to_thread(model.prepare, clip)

    async def answer(self, body: ChatRequest, choice: Choice | None) -> Waiting:
        """Put a chat request into the queue."""
        wanted = body.max_completion_tokens or body.max_tokens or self.settings.max_tokens
        if body.n != 1 or wanted > self.settings.max_tokens:
            if body.n != 1:
                raise Ego2ExoError(f"n {body.n}", "1", "ask again for another answer")
            most, more = self.settings.max_tokens, "ask for fewer, or start the server with a larger --max-tokens"
            raise Ego2ExoError(f"max_tokens {wanted}", f"at most {most}", more)
        asked, model = conversation(body.messages), self.models[body.model]
        _, clip = await self.shown(body.model, asked.pictures, asked.video)
        marks = bool(getattr(model.answerer.model.config, "mm_use_im_start_end", False))
        first, question = (asked.earlier[0][0] if asked.earlier else asked.question), asked.question
        earlier = [(clip.preface + first, asked.earlier[0][1]), *asked.earlier[1:]] if asked.earlier else []
        text = prompt(
            question if earlier else clip.preface + question, model.settings.template, marks, earlier, asked.system
        )
        row = Row(wanted, body.temperature, body.top_p, body.seed, body.stops)
        if choice is None:
            return self.put(body.model, clip, row, text=text)

        def choose(own: VideoModel) -> dict[str, float]:
            (found,) = own.probabilities(clip, [(text, choice.options)], whole=True)
            return found

        return self.put(body.model, clip, row, choose)

    def put(self, name: str, clip: PreparedClip, row: Row, call: Callable[[VideoModel], Any] | None = None,
            text: str = "") -> Waiting:  # fmt: skip
        """A job for the engine: an answer to the prompt `text`, or what `call` gives."""
        waiting = Waiting(self.engine)
        row.report = lambda piece: waiting.put("text", piece)
        row.cancelled = lambda: waiting.job.cancelled
        waiting.job = Job(name, clip, text, row, lambda value: waiting.put("done", value), call)
        self.engine.submit(waiting.job)
        return waiting
