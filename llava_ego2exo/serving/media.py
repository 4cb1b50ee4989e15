"""Frames of a request: pictures in their order as the frames of one video, or a video, with bounds on both."""

from __future__ import annotations

import base64
import binascii
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np

from ..errors import Ego2ExoError
from ..video import Clip

if TYPE_CHECKING:
    from .settings import ServeSettings

_MAX_PIXELS = 50_000_000  # of a picture, before it is decoded
Read = Callable[[str], Clip]


def clip_of(pictures: Sequence[str], video: str | None, settings: ServeSettings, read: Read, most: int) -> Clip:
    """The clip that a request shows.

    Args:
        pictures: addresses of its frames, in their order.
        video: address of a video in their place.
        settings: the server's.
        read: reads a video file as the model was trained to see it.
        most: frames that the model takes; 0: no bound.

    Raises:
        Ego2ExoError: both or neither are given, there are too many, or one cannot be had or read.
    """
    if bool(pictures) == (video is not None):
        given = "pictures and a video" if pictures else "no picture and no video"
        raise Ego2ExoError(given, "image_url parts, which are the frames of one video, or one video_url", "send one")
    if video is not None:
        return _video(video, settings, read)
    if most and len(pictures) > most:
        raise Ego2ExoError(f"{len(pictures)} frames", f"at most {most} (--frames-upbound)", "send fewer, evenly spaced")
    frames = [_picture(_content(address, settings), number) for number, address in enumerate(pictures, 1)]
    shape = frames[0].shape
    odd = next((number for number, frame in enumerate(frames, 1) if frame.shape != shape), None)
    if odd is not None:
        sizes = [
            f"frame {number} is {w} x {h} pixels" for number, (h, w, _) in ((1, shape), (odd, frames[odd - 1].shape))
        ]
        raise Ego2ExoError(", ".join(sizes), "frames of one size", "scale them")
    count = len(frames)  # one a second, as nothing is known of their times
    return Clip(np.stack(frames), [float(second) for second in range(count)], float(count), [*range(count)], 1.0)


def _video(address: str, settings: ServeSettings, read: Read) -> Clip:
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        return read(str(media_file(parts.path if parts.scheme else address, settings)))
    with tempfile.NamedTemporaryFile(suffix=".video") as file:
        file.write(_content(address, settings))
        file.flush()
        try:
            return read(file.name)
        except Ego2ExoError as error:  # which names a file that the client does not know
            given = error.given.replace(file.name, "the video")
            raise Ego2ExoError(given, error.allowed, error.remedy) from error


def media_file(path: str, settings: ServeSettings) -> Path:
    """A file below `--media`, whatever links and dots its path has."""
    if settings.media is None:
        raise Ego2ExoError(f"the file {path}", "data: addresses; files with --media", "send its content")
    folder = settings.media.resolve()
    found = (folder / path).resolve()
    if not found.is_relative_to(folder) or not found.is_file():
        raise Ego2ExoError(f"no file {path} below --media", "a path relative to that folder", "correct it")
    return found


def _content(address: str, settings: ServeSettings) -> bytes:
    """What a data: address holds, or an http one gives where the server may ask."""
    scheme = address.partition(":")[0].lower()
    if scheme == "data":
        head, comma, body = address.partition(",")
        if not comma:
            raise Ego2ExoError("a data: address without content", "data:image/jpeg;base64,...", "correct it")
        if not head.endswith(";base64"):
            return unquote_to_bytes(body)
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise Ego2ExoError(
                f"content that is not base64 ({error})", "base64 as of RFC 4648", "encode it anew"
            ) from error
    if scheme in ("http", "https") and settings.http:
        return _fetch(address, settings)
    allowed = "data: addresses" + (", http and https" if settings.http else "; http and https with --allow-http")
    raise Ego2ExoError(
        f"an address that begins with {scheme[:20]!r}", allowed, "send its content; a file of --media is a video_url"
    )


def _fetch(address: str, settings: ServeSettings) -> bytes:
    from urllib.error import URLError
    from urllib.request import urlopen

    most = settings.max_body_mb * 2**20
    try:
        with urlopen(address, timeout=min(settings.timeout, 30)) as answer:  # noqa: S310 - the scheme is checked
            content: bytes = answer.read(most + 1)
    except (URLError, OSError, ValueError) as error:
        raise Ego2ExoError(f"{address} does not answer: {error}", "an address that gives a picture or video") from error
    if len(content) > most:
        raise Ego2ExoError(f"{address} gives more than {settings.max_body_mb} MiB", "less", "send a smaller one")
    return content


def _picture(content: bytes, number: int) -> np.ndarray:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > _MAX_PIXELS:
            raise Ego2ExoError(
                f"frame {number} has {image.width} x {image.height} pixels", f"at most {_MAX_PIXELS}", "scale it"
            )
        return np.asarray(image.convert("RGB"))
    except Ego2ExoError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever they like
        raise Ego2ExoError(f"frame {number} is no picture", "a JPEG, PNG or WebP", "send one") from error
