"""Self-contained HTML pages: templates in one style, SVG drawings in the page's colours, small pictures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from PIL.Image import Image

SHARED = Path(__file__).parent / "templates"
# What is drawn in these becomes the page's own colour, by name; none of them is ever shown.
INK, SOFT = "#0a0b01", "#0a0b02"
SERIES = [f"#0a0c{index:02x}" for index in range(8)]
_NAMES = {INK: "ink", SOFT: "soft", **{colour: f"c{index}" for index, colour in enumerate(SERIES)}}
_STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "ego2exo", "text.parse_math": False, "font.family": "sans-serif"},
    **{"font.size": 9, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left"},
    **{"axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "xtick.major.size": 2, "ytick.major.size": 2},
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure in the pages' style, to be drawn and saved inside the block, whatever the user's own settings."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element for a page: no prolog, ids of its own, colours by the page's variables."""
    from markupsafe import escape

    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font: \1\2 system-ui, sans-serif", text)
    for colour, variable in _NAMES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def templates(folder: Path, **filters: Any) -> Any:
    """The templates of a folder and the shared `page.css`; all else than markup is escaped."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(filters)
    return made


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


def scaled(attention: np.ndarray) -> tuple[np.ndarray, float]:
    """Attention (T, h, w) from 0 to 1 for colours, and its largest as a multiple of the even share.

    1 is the largest, but at least twice the even share, so that an even map appears even.
    """
    times = attention * attention.size
    return times / max(times.max(), 2.0), float(times.max())


def overlaid(frames: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Attention (T, h, w), whose sum is 1, laid over frames (T, H, W, 3) uint8, as such frames."""
    import numpy as np

    height, width = frames.shape[1:3]
    down, across = attention.shape[1:]
    row, column = np.arange(height) * down // height, np.arange(width) * across // width  # the patch of each pixel
    over = heat(scaled(attention)[0]).astype(float)[:, row[:, None], column[None, :]]
    alpha = over[..., 3:] / 255
    return (over[..., :3] * alpha + frames * (1 - alpha)).round().astype(np.uint8)


def attention_picture(frames: np.ndarray, attention: np.ndarray, times: Sequence[float], columns: int = 8) -> Image:
    """Frames with attention laid over them, each with its time and its share, as one picture.

    Args:
        frames: (T, H, W, 3) uint8.
        attention: (T, h, w), whose sum is 1.
        times: seconds of each frame.
        columns: frames a row.
    """
    from PIL import Image, ImageDraw, ImageOps

    side, text, drawn = 224, 16, overlaid(frames, attention)
    columns = min(columns, len(drawn))
    sheet = Image.new("RGB", (columns * side, -(-len(drawn) // columns) * (side + text)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (frame, share, time) in enumerate(zip(drawn, attention.sum((1, 2)), times, strict=True)):
        x, y = number % columns * side, number // columns * (side + text)
        small = ImageOps.contain(Image.fromarray(frame), (side - 2, side - 2))
        sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
        pen.text((x + 2, y + side + 1), f"{time:.1f} s: {100 * share:.0f} %", fill="black")
    return sheet


def gradient(steps: int = 9) -> str:
    """The colours of :func:`heat` from 0 to 1, as stops of a CSS gradient."""
    import numpy as np

    stops = heat(np.linspace(0, 1, steps))
    return ", ".join(f"rgb({r} {g} {b} / {a / 255:.2f})" for r, g, b, a in stops.tolist())
