"""One picture of a run for a README: bars of the table, a pair of clips, and where the ego tokens look."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..pages.templating import SHARED
from .report import chance, columns, environment
from .results import Look, Results
from .summary import legend, table

if TYPE_CHECKING:
    import numpy as np

WIDTH, MARGIN, FRAMES = 960, 12, 4


def picture(results: Results) -> str:
    """An SVG of its own, on a light ground: below 150 kB, no network, no fonts, readable in both themes of a page.

    Raises:
        Ego2ExoError: matplotlib is not installed.
    """
    colours = _palette()
    bars, tall = _bars(results, colours)
    strips = [{"title": title, "uris": uris} for title, uris in _strips(results)]
    below = MARGIN + tall + 16
    return (
        environment()
        .get_template("picture.svg")
        .render(
            bars=bars,
            strips=strips,
            legend=legend(results),
            told=table(results),
            width=WIDTH,
            height=below + (132 if strips else 16),
            below=below,
            **{name: colours[name] for name in ("page", "ink", "soft")},
        )
    )


def _bars(results: Results, colours: dict[str, str]) -> tuple[str, int]:
    """The table's bars, a panel a column, and their height in pixels."""
    from ..pages.drawing import require_matplotlib
    from .figures import bars

    require_matplotlib()
    panels = [(column, values, chance(results)[column]) for column, values in columns(results).items()]
    svg = bars(panels, range(len(results.variants)), "picture", "bars", width=10.4)
    wide, high = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    inner = WIDTH - 2 * MARGIN
    tall = round(inner * high / wide)
    place = f'x="{MARGIN}" y="{MARGIN}" width="{inner}" height="{tall}"'
    # Fixed colours: what shows a README's pictures need not know variables.
    svg = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], svg)
    return svg.replace("<svg ", f"<svg {place} ", 1), tall


def _strips(results: Results) -> list[tuple[str, list[str]]]:
    """The first shown pair, and the first look's last layer: (title, frames as data URIs)."""
    found = []
    for item in results.items[:1]:
        found += [("ego: what the teacher saw", item.ego_frames), ("exo: what the students see", item.exo_frames)]
    for look in results.looks[:1]:
        found.append((f"where the ego tokens look ({look.layers[-1]})", overlaid(look, len(look.layers) - 1)))
    return [(title, [_small(frames[i]) for i in _spaced(len(frames))]) for title, frames in found]


def overlaid(look: Look, layer: int) -> np.ndarray:
    """A layer's attention laid over the frames: (T, H, W, 3) uint8."""
    import numpy as np

    from ..pages.thumbnails import heat
    from .report import scaled

    count, height, width = look.frames.shape[:3]
    rows, across = look.maps.shape[2:]
    colours = heat(scaled(look.maps[layer])[0]).astype(float)
    row, column = np.arange(height) * rows // height, np.arange(width) * across // width  # the patch of each pixel
    over = colours[:, row[:, None], column[None, :]]
    alpha = over[..., 3:] / 255
    return (over[..., :3] * alpha + look.frames * (1 - alpha)).round().astype(np.uint8)


def _small(frame: np.ndarray) -> str:
    from ..pages.thumbnails import picture_uri

    return picture_uri(frame, limit=96, quality=80)


def _spaced(count: int) -> list[int]:
    """At most `FRAMES` indices below `count`, evenly spaced, first and last among them."""
    wanted = min(count, FRAMES)
    return [round(i * (count - 1) / max(wanted - 1, 1)) for i in range(wanted)]


def _palette() -> dict[str, str]:
    """The report's light colours by name."""
    light = (SHARED / "page.css").read_text(encoding="utf-8").split("@media")[0]
    return dict(re.findall(r"--(\w+): (#\w+)", light))
