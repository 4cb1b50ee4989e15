"""Settings of the judge model's endpoint."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

from ...common.endpoints import environment_key, shown_url
from ...errors import Ego2ExoError

NO_KEY = "none"
_DEFAULT_KEY_ENV = "OPENAI_API_KEY"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"https?://([^\s/?#@]*@)?(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]]+)(:[0-9]{1,5})?([/?#]\S*)?")


@dataclass(frozen=True)
class JudgeSettings:
    """A judge behind an OpenAI-compatible endpoint.

    Args:
        url: base URL of the endpoint, usually ending in /v1.
        model: its name at the endpoint.
        key_env: environment variable that holds the key, or "none"; OPENAI_API_KEY may be unset for servers that need
            no key.
        timeout_s: longest silence during a call, in seconds.
        retries: retries of a call that failed, and of an answer that is not valid.
        workers: concurrent calls.
        read_unparsed: whether it also reads multiple-choice replies that the parser cannot.
        max_tokens: most tokens of an answer; a judge that reasons before it answers needs more.
        max_chars: most characters of a reply in one call: a longer one loses its middle, and descriptions of clips are
            merged in chunks of this size.

    Raises:
        Ego2ExoError: a value is not allowed.
    """

    url: str
    model: str
    key_env: str = _DEFAULT_KEY_ENV
    timeout_s: float = 60.0
    retries: int = 4
    workers: int = 4
    read_unparsed: bool = False
    max_tokens: int = 1024
    max_chars: int = 6000

    def __post_init__(self) -> None:
        rules = (
            (_URL.fullmatch(self.url), f"--judge-url {shown_url(self.url)}", "http://HOST:PORT/v1 or https://HOST/v1"),
            (self.model.strip(), f"--judge-model {self.model!r}", "a model's name at that endpoint"),
            # A key given in place of the name must not reach a log.
            (_VARIABLE.fullmatch(self.key_env), "--judge-key-env", f"the NAME of a variable, or {NO_KEY}; not the key"),
            (0 < self.timeout_s < math.inf, f"--judge-timeout {self.timeout_s}", "a number of seconds above 0"),
            (0 <= self.retries <= 20, f"--judge-retries {self.retries}", "0 to 20"),
            (1 <= self.workers <= 256, f"--judge-workers {self.workers}", "1 to 256"),
            (self.max_tokens >= 16, f"--judge-max-tokens {self.max_tokens}", "16 or more"),
            (self.max_chars >= 1000, f"max_chars {self.max_chars}", "1000 or more"),
        )
        wrong = [(given, allowed) for right, given, allowed in rules if not right]
        if wrong:
            raise Ego2ExoError("; ".join(given for given, _ in wrong), "; ".join(allowed for _, allowed in wrong))

    def sampling(self) -> dict[str, Any]:
        """What an answer depends on beside model and messages: part of the cache keys."""
        return {"temperature": 0, "max_tokens": self.max_tokens}

    def key(self) -> str:
        """The key to send; "none" for a server that needs none.

        Raises:
            Ego2ExoError: the variable that was named is not set.
        """
        unset = self.key_env == _DEFAULT_KEY_ENV and not os.environ.get(_DEFAULT_KEY_ENV, "").strip()
        return NO_KEY if unset or self.key_env == NO_KEY else environment_key(self.key_env, "--judge-key-env")

    def to_dict(self) -> dict[str, Any]:
        """All settings; the URL without user, password and query."""
        return {**asdict(self), "url": shown_url(self.url)}


def judge_settings(url: str | None, model: str | None, unparsed: bool, **others: Any) -> JudgeSettings | None:
    """Settings from flags, of which None keeps the default; None where no judge is configured.

    Raises:
        Ego2ExoError: the flags do not go together, or a value is wrong.
    """
    if (url is None) != (model is None) or (unparsed and url is None):
        flags = "--judge-url, --judge-model" + (", --judge-unparsed" if unparsed else "")
        raise Ego2ExoError(flags, "an endpoint's URL and a model, or no judge", "give both, or none of them")
    if url is None or model is None:
        return None
    given = {name: value for name, value in others.items() if value is not None}
    return JudgeSettings(url, model, read_unparsed=unparsed, **given)
