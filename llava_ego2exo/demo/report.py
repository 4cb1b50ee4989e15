"""The demo's report: `report.html`, one file that works from disk, and `metrics.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import write_atomic
from ..pages.templating import SHARED, templates
from .results import (
    CHANCE,
    LABELS,
    MEAN,
    VARIANTS,
    Look,
    Results,
    Shown,
    ablation_rows,
    ablation_table,
    differences,
    legend,
    metrics,
    rows,
    table,
    with_mean,
)

if TYPE_CHECKING:
    import numpy as np


__all__ = ["ablation_table", "metrics", "report_html", "table", "write_report"]
TEMPLATES = Path(__file__).parent / "templates"


def write_report(results: Results, out: str | Path) -> Path:
    """Write `report.html` and `metrics.json`, each whole or not at all.

    Args:
        results: what to show.
        out: the folder, made where it is not there.

    Returns:
        The report.

    Raises:
        Ego2ExoError: matplotlib is not installed.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    html = report_html(results)
    write_atomic(folder / "metrics.json", json.dumps(metrics(results), indent=2, default=str) + "\n")
    return write_atomic(folder / "report.html", html)


def report_html(results: Results) -> str:
    """The report as text."""
    from ..pages.drawing import require_matplotlib
    from ..pages.thumbnails import gradient
    from .figures import curves

    require_matplotlib()
    return (
        environment()
        .get_template("report.html")
        .render(
            results=results,
            rows=rows(results),
            ablations=ablation_rows(results),
            differences=differences(results),
            legend=legend(results),
            bars=list(_bars(results)),
            ablation_bars=list(_ablation_bars(results)),
            curves=curves(results.curves, list(results.variants), "curves") if results.curves else "",
            items=[_item(item) for item in results.items],
            looks=[_look(look) for look in results.looks],
            gradient=gradient(),
            labels=LABELS,
            meanings={name: VARIANTS[name] for name in rows(results) if name in VARIANTS},
            CHANCE=CHANCE,
            MEAN=MEAN,
        )
    )


def environment() -> Any:
    """Templates of this package with the demo's own filters."""
    return templates(TEMPLATES, signed=signed, duration=duration)


def duration(seconds: float) -> str:
    """Seconds, and minutes from two on: "45.3 s", "12 min 5 s"."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{int(round(seconds)) // 60} min {int(round(seconds)) % 60} s"


def signed(points: float) -> str:
    """A difference, with a real minus sign."""
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def columns(results: Results) -> dict[str, dict[str, Any]]:
    """Question type or "mean" -> variant -> percent of each seed."""
    full = {name: with_mean(types) for name, types in results.variants.items()}
    return {column: {name: types[column] for name, types in full.items()} for column in (MEAN, *results.chance)}


def chance(results: Results) -> dict[str, float]:
    """Question type or "mean" -> percent right by chance."""
    return {column: row["mean"] for column, row in rows(results)[CHANCE].items()}


def _bars(results: Results) -> Iterator[str]:
    from .figures import bars

    if results.variants:
        for number, (column, values) in enumerate(columns(results).items()):
            title = "mean over question types" if column == MEAN else column
            label = f"Percent right of each variant, {title}; the numbers stand in the table above"
            colours = range(len(values))
            yield bars([(title, values, chance(results)[column])], colours, f"bars{number}", label)


def _ablation_bars(results: Results) -> Iterator[str]:
    from .figures import bars

    for number, (name, hows) in enumerate(ablation_rows(results).items()):
        values = {LABELS.get(how, how): with_mean(results.ablations[name][how])[MEAN] for how in hows}
        label = f"Percent right of {name}, mean over question types, by ablation; the numbers stand in the table"
        colours = [list(results.variants).index(name)] * len(values)
        yield bars([(name, values, chance(results)[MEAN])], colours, f"ablation{number}", label)


def _item(item: Shown) -> dict[str, Any]:
    from ..pages.thumbnails import picture_uri

    return {
        "shown": item,
        "ego": [picture_uri(frame) for frame in item.ego_frames],
        "exo": [picture_uri(frame) for frame in item.exo_frames],
    }


def _look(look: Look) -> dict[str, Any]:
    from ..pages.thumbnails import heat, picture_uri

    layers = []
    for name, layer in zip(look.layers, look.maps, strict=True):
        shares, times = scaled(layer)
        pairs = zip(heat(shares), layer, strict=True)
        cells = [{"heat": picture_uri(colours), "told": _told(frame)} for colours, frame in pairs]
        layers.append({"name": name, "times": times, "cells": cells})
    height, width = look.frames.shape[1:3]
    frames = [picture_uri(frame) for frame in look.frames]
    return {"title": look.title, "frames": frames, "ratio": f"{width} / {height}", "layers": layers}


def scaled(layer: Any) -> tuple[Any, float]:
    """A layer's attention (T, h, w) from 0 to 1 for colours, and its largest as a multiple of the even share.

    1 is the largest, but at least twice the even share: a layer that looks everywhere alike is to look so.
    """
    times = layer * layer.size
    return times / max(times.max(), 2.0), float(times.max())


def _told(frame: Any) -> str:
    """A frame's attention (h, w) in words."""
    row, column = divmod(int(frame.argmax()), frame.shape[1])
    return f"{100 * float(frame.sum()):.0f}% of the attention, most at row {row + 1}, column {column + 1}"


# One picture of a run for a README: bars of the table, a pair of clips, and where the ego tokens look.

WIDTH, MARGIN, FRAMES = 960, 12, 4


def picture(results: Results) -> str:
    """An SVG of its own, on a light ground: below 150 kB, no network, no fonts, readable in both themes of a page.

    Raises:
        Ego2ExoError: matplotlib is not installed.
    """
    colours = _palette()
    bars, tall = _bars_picture(results, colours)
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


def _bars_picture(results: Results, colours: dict[str, str]) -> tuple[str, int]:
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
