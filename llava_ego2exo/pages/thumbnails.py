"""Frames and attention as small pictures inside a page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def picture_uri(picture: np.ndarray, limit: int = 256, quality: int | None = None) -> str:
    """A picture (H, W, 3 or 4) uint8 as a data URI, made smaller where a side is longer than `limit` pixels.

    Small ones stay exact (PNG); larger ones, and all where `quality` is given, are JPEG.
    """
    from PIL import Image

    image, out = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((limit, limit))
    kind = "PNG" if quality is None and (max(image.size) <= 96 or image.mode == "RGBA") else "JPEG"
    options = {"quality": quality or 90, "subsampling": 0} if kind == "JPEG" else {"optimize": True}
    image.save(out, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def heat(weights: np.ndarray) -> np.ndarray:
    """Colours to lay over a frame: (..., 4) uint8 of numbers from 0 to 1, stronger ones also more opaque."""
    import matplotlib
    import numpy as np

    weights = np.clip(weights, 0, 1)
    colours = matplotlib.colormaps["inferno"](0.25 + 0.7 * weights)
    colours[..., 3] = 0.1 + 0.75 * weights
    return (colours * 255).round().astype(np.uint8)


def gradient(steps: int = 9) -> str:
    """The colours of :func:`heat` from 0 to 1, as stops of a CSS gradient."""
    import numpy as np

    stops = heat(np.linspace(0, 1, steps))
    return ", ".join(f"rgb({r} {g} {b} / {a / 255:.2f})" for r, g, b, a in stops.tolist())
