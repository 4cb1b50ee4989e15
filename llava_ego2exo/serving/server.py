"""The process that serves: its port is taken before models load, and what runs is ended before it ends."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from ..errors import Ego2ExoError
from .settings import ServeSettings


def take_port(settings: ServeSettings) -> socket.socket:
    """The socket to listen on later.

    Raises:
        Ego2ExoError: the address is not this machine's, or in use.
    """
    made = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host, settings.port))
    except OSError as error:
        made.close()
        given = f"--host {settings.host} --port {settings.port}: {error.strerror or error}"
        raise Ego2ExoError(
            given, "an address of this machine and a free port", "give others; --port 0 is any"
        ) from error
    return made


class Server(uvicorn.Server):
    """uvicorn's, which would wait for open connections before anything tells the engine to end."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10))
        self._engine = app.state.engine

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or self.servers[0].sockets)[0].getsockname()[:2]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        print(f"serving {', '.join(self._engine.models)} at http://{place}/", file=sys.stderr, flush=True)  # noqa: T201

    async def shutdown(self, sockets: Any = None) -> None:
        await asyncio.to_thread(self._engine.close)
        await super().shutdown(sockets)
