"""Drawing for pages: SVG that takes its colours from the page's style."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import Ego2ExoError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def require_matplotlib() -> None:
    """Ask for what the report draws with; to be called before a long run.

    Raises:
        Ego2ExoError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise Ego2ExoError("matplotlib is not installed", "", "pip install 'llava-ego2exo[report]'") from error


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of our style, to be drawn and saved inside the block; the user's own settings play no part."""
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
