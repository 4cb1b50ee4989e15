"""Settings of the server, checked before any weight loads."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ..errors import refuse


@dataclass(frozen=True)
class ServeSettings:
    """What the server takes, from whom, and how much of it.

    Args:
        host, port: where it listens; port 0: any that is free.
        media: folder whose files requests may name; None: none.
        http: whether frames may be fetched from http and https addresses.
        api_key: what requests must give as `Authorization: Bearer`; None: nothing.
        queue: requests that may wait; more are turned away with status 429.
        batch: requests of one shape that go through the model together.
        max_tokens: most tokens of an answer.
        max_body_mb: largest request, in MiB.
        timeout: seconds that a request may wait and run.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    media: Path | None = None
    http: bool = False
    api_key: str | None = None
    queue: int = 64
    batch: int = 8
    max_tokens: int = 256
    max_body_mb: int = 64
    timeout: float = 300.0

    def __post_init__(self) -> None:
        refuse(
            (not 0 <= self.port < 65536, f"--port {self.port}", "0 to 65535", ""),
            (self.media is not None and not self.media.is_dir(), f"--media {self.media}", "a folder that exists", ""),
            *((getattr(self, name) < 1, f"--{name.replace('_', '-')} {getattr(self, name)}", "1 or more", "")
              for name in ("queue", "batch", "max_tokens", "max_body_mb", "timeout")),
        )  # fmt: skip

    @property
    def open_to_others(self) -> bool:
        """Whether other machines can reach it."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"
