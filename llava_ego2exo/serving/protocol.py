"""What a chat request may hold, and its answers, in the form of OpenAI's API; fields that it names only are ignored."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ..errors import Ego2ExoError


class UnknownModelError(Exception):
    """A request names a model that is not served."""


def known(name: str, models: Collection[str]) -> None:
    """Refuse a model that is not served."""
    if name not in models:
        raise UnknownModelError(f"The model {name!r} does not exist; served are {', '.join(models)}")


class Address(BaseModel):
    """Of a picture or a video."""

    url: str


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class PicturePart(BaseModel):
    type: Literal["image_url"]
    image_url: Address


class VideoPart(BaseModel):
    type: Literal["video_url"]
    video_url: Address


Part = Annotated[TextPart | PicturePart | VideoPart, Field(discriminator="type")]


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of `/v1/chat/completions`."""

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: dict[str, Any] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(filter(None, self.stop or []))


@dataclass(frozen=True)
class Asked:
    """A conversation as a model of one video takes it."""

    question: str
    earlier: list[tuple[str, str]]
    system: str
    pictures: list[str]
    video: str | None


def conversation(messages: list[Message]) -> Asked:
    """The last question with what came before it, and the one video of them all.

    Raises:
        Ego2ExoError: roles do not take turns, or there is more than one video.
    """
    system = "\n".join(text_of(one) for one in messages if one.role in ("system", "developer"))
    turns = [one for one in messages if one.role in ("user", "assistant")]
    roles = [one.role for one in turns]
    if roles != [*["user", "assistant"] * (len(roles) // 2), "user"]:
        allowed = "user and assistant in turn, from user to user"
        raise Ego2ExoError(f"messages of {', '.join(roles) or 'no user'}", allowed, "send the whole conversation")
    parts = [(number, part) for number, one in enumerate(turns) for part in one.content if not isinstance(part, str)]
    pictures = [(number, part.image_url.url) for number, part in parts if isinstance(part, PicturePart)]
    videos = [(number, part.video_url.url) for number, part in parts if isinstance(part, VideoPart)]
    if len({number for number, _ in pictures}) > 1 or len(videos) > 1:
        raise Ego2ExoError("more than one video", "the frames of one video in one message, or one video_url", "")
    asked = [text_of(one) for one in turns if one.role == "user"]
    if not asked[-1]:
        raise Ego2ExoError("no question", "a text in the last message", "ask something")
    answers = [text_of(one) for one in turns if one.role == "assistant"]
    return Asked(
        asked[-1], list(zip(asked[:-1], answers, strict=True)), system, [url for _, url in pictures],
        videos[0][1] if videos else None,
    )  # fmt: skip


def text_of(message: Message) -> str:
    """The text parts of a message, without what stands for a video in a prompt."""
    parts = message.content
    texts = [parts] if isinstance(parts, str) else [part.text for part in parts if isinstance(part, TextPart)]
    return "\n".join(texts).replace("<image>", "").strip()


@dataclass(frozen=True)
class Choice:
    """A JSON schema whose answers are a few texts: `key` of an object with one property, or None for the bare text."""

    options: tuple[str, ...]
    key: str | None

    def content(self, answer: str) -> str:
        """The answer as the schema has it."""
        return json.dumps(answer if self.key is None else {self.key: answer})


def choice_of(response_format: dict[str, Any] | None) -> Choice | None:
    """The texts that a `response_format` allows; None where it asks for free text.

    Raises:
        Ego2ExoError: it asks for anything else.
    """
    kind = (response_format or {}).get("type", "text")
    if kind == "text":
        return None
    schema = ((response_format or {}).get("json_schema") or {}).get("schema") or {}
    key, properties = None, schema.get("properties")
    if isinstance(properties, dict) and len(properties) == 1:
        ((key, schema),) = properties.items()
    options = schema.get("enum") if isinstance(schema, dict) else None
    if kind != "json_schema" or not isinstance(options, list) or not all(isinstance(one, str) for one in options):
        raise Ego2ExoError(
            f"response_format {json.dumps(response_format)[:200]}",
            'text, or a json_schema that is {"enum": [texts]}, or an object with one such property',
            "give the possible answers",
        )
    return Choice(tuple(options), key)


def completion(model: str, content: str, reason: str, prompt_tokens: int, tokens: int, **extra: Any) -> dict[str, Any]:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason, **extra}
    return {**_head(new_id(), "chat.completion", model), "choices": [choice], "usage": usage(prompt_tokens, tokens)}


def chunk(request_id: str, model: str, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    """A piece of a streamed answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {**_head(request_id, "chat.completion.chunk", model), "choices": [choice]}


def usage_chunk(request_id: str, model: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    """What a stream used, behind its last piece."""
    head = _head(request_id, "chat.completion.chunk", model)
    return {**head, "choices": [], "usage": usage(prompt_tokens, tokens)}


def usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


def new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _head(request_id: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": request_id, "object": kind, "created": int(time.time()), "model": model}


def error_body(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
