"""The page at `/`: ask the served models about a clip, and see what they saw and where their ego tokens looked."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from ..common.pages import SHARED, picture_uri
from ..host.inference.steering import Row
from ..host.model.inspection import has_attention, video_attention_maps
from .protocol import known
from .requests import Intake

if TYPE_CHECKING:
    from torch import Tensor

    from ..host.inference.ask import VideoModel

_VIDEOS = frozenset((".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v"))
_LISTED = 1000  # videos that the page offers
# Nothing is loaded from elsewhere, and no other page may show this one.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; media-src blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


class Shown(BaseModel):
    """The body of `/page/frames`: a served model, and the address of a video as in a chat request."""

    model: str
    video: str


def add_page(app: FastAPI, intake: Intake, authorized: Sequence[Any]) -> None:
    """The page and what it asks for beside chat completions; only the page itself needs no key."""
    html = (Path(__file__).parent / "templates" / "page.html").read_text(encoding="utf-8")
    html = html.replace("/* page.css */", (SHARED / "page.css").read_text(encoding="utf-8"))

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": _POLICY})

    @app.get("/page/videos", dependencies=authorized)
    def videos() -> list[str]:
        return videos_below(intake.settings.media)

    @app.post("/page/frames", dependencies=authorized)
    async def frames(body: Shown, request: Request) -> dict[str, Any]:
        known(body.model, intake.models)
        clip, prepared = await intake.shown(body.model, [], body.video)

        def look(model: VideoModel) -> dict[str, Any] | None:
            if not has_attention(model.answerer.model):
                return None
            seen = video_attention_maps(model.answerer.model, prepared.pixels)
            return {"layers": seen.layers, **drawn(seen.maps)}

        attention = await intake.put(body.model, prepared, Row(1), look).result(request)
        pictures = await asyncio.to_thread(lambda: [picture_uri(frame, quality=85) for frame in clip.frames])
        return {"frames": pictures, "times": clip.times, "attention": attention}


def videos_below(folder: Path | None) -> list[str]:
    """Paths of the first videos of a folder, relative to it."""
    if folder is None:
        return []
    found = (file for file in folder.rglob("*") if file.suffix.lower() in _VIDEOS and file.is_file())
    return sorted(file.relative_to(folder).as_posix() for file in found)[:_LISTED]


def drawn(maps: Tensor) -> dict[str, Any]:
    """Attention (layers, P, T, h, w) for a browser, with the mean of all tokens before the first.

    Returns:
        `shape`: (layers, 1 + P, T, h, w). `maps`: base64 of so many bytes, of each token's map its largest is 255.
        `peaks`: that largest, as a multiple of the even share, (layers, 1 + P). `shares`: of each frame,
        (layers, 1 + P, T).
    """
    import torch

    maps = torch.cat((maps.mean(1, keepdim=True), maps), 1)
    peak = maps.amax((2, 3, 4), keepdim=True).clamp_min(1e-12)
    scaled = (maps / peak * 255).round().to(torch.uint8)
    return {
        "shape": list(maps.shape),
        "maps": base64.b64encode(scaled.numpy().tobytes()).decode(),
        "peaks": (peak.flatten(1) * maps[0, 0].numel()).tolist(),
        "shares": maps.sum((3, 4)).tolist(),
    }
