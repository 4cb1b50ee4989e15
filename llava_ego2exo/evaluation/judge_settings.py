"""Which judge is asked, and how patiently."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from ..errors import Ego2ExoError
from ..runs.listing import listed

NO_KEY = "none"
_DEFAULT_KEY_ENV = "OPENAI_API_KEY"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class JudgeSettings:
    """A judge behind an OpenAI-compatible endpoint.

    Args:
        url: of the endpoint, mostly ending in /v1.
        model: its name there.
        key_env: environment variable that holds the key, or "none"; OPENAI_API_KEY may be unset for servers that need
            no key.
        timeout_s: how long a call may give no sign of life, in seconds.
        retries: how often a call that failed, or gave no valid answer, is made again.
        workers: calls at once.
        read_unparsed: whether it is asked about multiple-choice replies that the parser cannot read.
        max_tokens: most tokens of an answer; a judge that thinks aloud needs more.
        max_chars: most characters of a reply in one call: a longer one loses its middle, and clips' descriptions are
            merged in chunks of this size.
        wait_s: before the first retry, in seconds; doubled for each further one.
        max_wait_s: longest wait, also where the server asks for a longer one, in seconds.

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
    wait_s: float = 0.5
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        rules = (
            (_host(self.url), f"--judge-url {shown_url(self.url)}", "http://HOST:PORT/v1 or https://HOST/v1"),
            (self.model.strip(), f"--judge-model {self.model!r}", "a model's name at that endpoint"),
            (_VARIABLE.fullmatch(self.key_env), "--judge-key-env", f"the NAME of a variable, or {NO_KEY}; not the key"),
            (_positive(self.timeout_s), f"timeout_s {self.timeout_s}", "a number of seconds above 0"),
            (0 <= self.retries <= 20, f"retries {self.retries}", "0 to 20"),
            (1 <= self.workers <= 256, f"--judge-workers {self.workers}", "1 to 256"),
            (self.max_tokens >= 16, f"max_tokens {self.max_tokens}", "16 or more"),
            (self.max_chars >= 1000, f"max_chars {self.max_chars}", "1000 or more"),
            (_positive(self.wait_s), f"wait_s {self.wait_s}", "a number of seconds above 0"),
            (_positive(self.max_wait_s), f"max_wait_s {self.max_wait_s}", "a number of seconds above 0"),
        )
        wrong = [f"{given} (allowed: {allowed})" for right, given, allowed in rules if not right]
        if wrong:
            raise Ego2ExoError(f"Of the judge: {listed(wrong, len(rules))}", "", "mend these")

    @property
    def host(self) -> str:
        """Host and port, without user and password."""
        return _host(self.url)

    def asked(self) -> dict[str, Any]:
        """What an answer hangs on beside model and messages: part of the cache's keys."""
        return {"temperature": 0, "max_tokens": self.max_tokens}

    def key(self) -> str:
        """The key to send; "none" for a server that needs none.

        Raises:
            Ego2ExoError: the variable that was named is not set.
        """
        if self.key_env == NO_KEY:
            return NO_KEY
        key = os.environ.get(self.key_env, "").strip()
        if not key and self.key_env != _DEFAULT_KEY_ENV:
            raise Ego2ExoError(
                f"--judge-key-env {self.key_env}: this environment variable is not set or empty",
                f"a variable that holds the judge's key, or {NO_KEY} for a server that needs none",
                f"export {self.key_env}=...",
            )
        return key or NO_KEY

    def to_dict(self) -> dict[str, Any]:
        """All settings; the url without user, password and query."""
        return {**asdict(self), "url": shown_url(self.url)}


def shown_url(url: str) -> str:
    """An address as it may be shown: without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path


def _host(url: str) -> str:
    """Host and port; "" where the url is none that can be asked."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return ""
    right = parts.scheme in ("http", "https") and parts.hostname and not re.search(r"\s", url)
    return parts.netloc.rpartition("@")[2] if right else ""


def _positive(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0
