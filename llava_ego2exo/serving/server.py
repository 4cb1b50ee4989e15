"""The process that serves: it ends what runs before it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI

from .settings import ServeSettings


class Server(uvicorn.Server):
    """uvicorn's, which would wait for open connections before anything tells the engine to end."""

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        limits: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 10}
        super().__init__(uvicorn.Config(app, settings.host, settings.port, **limits))
        self._engine = app.state.engine

    async def shutdown(self, sockets: Any = None) -> None:
        await asyncio.to_thread(self._engine.close)
        await super().shutdown(sockets)
