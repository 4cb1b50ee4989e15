"""The demo's report: `report.html`, one file that works from disk, `metrics.json`, and a picture for a README."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import write_atomic
from ..pages.templating import SHARED, templates
from .results import (
    ABLATIONS,
    CHANCE,
    MEAN,
    VARIANTS,
    ClipAttention,
    Example,
    Results,
    ablation_rows,
    differences,
    legend,
    metrics,
    rows,
    table,
    with_mean,
)

if TYPE_CHECKING:
    import numpy as np

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, MARGIN, FRAMES = 960, 12, 4  # of the picture, in pixels; frames shown of a clip


def write_report(results: Results, out: str | Path) -> Path:
    """Write `report.html`, `picture.svg` and `metrics.json`, each whole or not at all.

    Args:
        results: what to show.
        out: the folder, made where it is not there.

    Returns:
        The report.

    Raises:
        Ego2ExoError: matplotlib is not installed.
    """
    folder, html, svg = Path(out), report_html(results), picture(results)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "metrics.json", json.dumps(metrics(results), indent=2, default=str) + "\n")
    write_atomic(folder / "picture.svg", svg)
    return write_atomic(folder / "report.html", html)


def report_html(results: Results) -> str:
    """The report as text."""
    from ..pages.drawing import require_matplotlib
    from ..pages.thumbnails import gradient
    from .figures import curves

    require_matplotlib()
    values = {
        "results": results, "rows": rows(results), "ablations": ablation_rows(results),
        "differences": differences(results), "legend": legend(results), "bars": list(_bars(results)),
        "ablation_bars": list(_ablation_bars(results)),
        "curves": curves(results.curves, list(results.variants), "curves") if results.curves else "",
        "examples": [_example(example) for example in results.examples],
        "attention": [_attention(clip) for clip in results.attention], "gradient": gradient(), "labels": ABLATIONS,
        "meanings": {name: VARIANTS[name] for name in rows(results) if name in VARIANTS},
        "CHANCE": CHANCE, "MEAN": MEAN,
    }  # fmt: skip
    return templates(TEMPLATES, signed=_signed, duration=_duration).get_template("report.html").render(values)


def _duration(seconds: float) -> str:
    """Seconds, and minutes from two on: "45.3 s", "12 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.1f} s" if seconds < 120 else f"{minutes} min {rest} s"


def _signed(points: float) -> str:
    """A difference, with a real minus sign."""
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def _panels(results: Results) -> list[tuple[str, dict[str, list[float]], float]]:
    """A panel of bars for the mean and each question type: its name, variant -> percent of each seed, and chance."""
    full = {name: with_mean(types) for name, types in results.variants.items()}
    chance = {column: row["mean"] for column, row in rows(results)[CHANCE].items()}
    return [(column, {name: types[column] for name, types in full.items()}, chance[column])
            for column in (MEAN, *results.chance)]  # fmt: skip


def _bars(results: Results) -> Iterator[str]:
    from .figures import bars

    for number, (column, values, chance) in enumerate(_panels(results) if results.variants else ()):
        title = "mean over question types" if column == MEAN else column
        label = f"Percent right of each variant, {title}; the numbers are in the table above"
        yield bars([(title, values, chance)], range(len(values)), f"bars{number}", label)


def _ablation_bars(results: Results) -> Iterator[str]:
    from .figures import bars

    chance = rows(results)[CHANCE][MEAN]["mean"]
    for number, (variant, ablated) in enumerate(ablation_rows(results).items()):
        values = {ABLATIONS[name]: with_mean(results.ablations[variant][name])[MEAN] for name in ablated}
        label = f"Percent right of {variant}, mean over question types, by ablation; the numbers are in the table"
        colours = [list(results.variants).index(variant)] * len(values)
        yield bars([(variant, values, chance)], colours, f"ablation{number}", label)


def _example(example: Example) -> dict[str, Any]:
    from ..pages.thumbnails import picture_uri

    views = {"ego": example.ego_frames, "exo": example.exo_frames}
    return {"question": example, **{view: [picture_uri(frame) for frame in frames] for view, frames in views.items()}}


def _attention(clip: ClipAttention) -> dict[str, Any]:
    from ..pages.thumbnails import heat, picture_uri

    layers = []
    for name, layer in zip(clip.layers, clip.maps, strict=True):
        shares, times = scaled(layer)
        cells = [{"heat": picture_uri(colours), "share": f"{100 * float(frame.sum()):.0f}% of the attention"}
                 for colours, frame in zip(heat(shares), layer, strict=True)]  # fmt: skip
        layers.append({"name": name, "times": times, "cells": cells})
    height, width = clip.frames.shape[1:3]
    frames = [picture_uri(frame) for frame in clip.frames]
    return {"title": clip.title, "frames": frames, "ratio": f"{width} / {height}", "layers": layers}


def scaled(layer: np.ndarray) -> tuple[np.ndarray, float]:
    """A layer's attention (T, h, w) from 0 to 1 for colours, and its largest as a multiple of the even share.

    1 is the largest, but at least twice the even share, so that an even layer looks even.
    """
    times = layer * layer.size
    return times / max(times.max(), 2.0), float(times.max())


def picture(results: Results) -> str:
    """An SVG for a README: bars of the table, a pair of clips, and where the ego tokens look.

    Below 150 kB, on a light ground, without fonts or anything from elsewhere.
    """
    from ..pages.drawing import require_matplotlib
    from .figures import bars

    require_matplotlib()
    light = (SHARED / "page.css").read_text(encoding="utf-8").split("@media")[0]
    colours = dict(re.findall(r"--(\w+): (#\w+)", light))
    svg = bars(_panels(results), range(len(results.variants)), "picture", "bars", width=10.4)
    wide, high = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    inner = WIDTH - 2 * MARGIN
    tall = round(inner * high / wide)
    place = f'x="{MARGIN}" y="{MARGIN}" width="{inner}" height="{tall}"'
    # Fixed colours: what shows a README's pictures need not know variables.
    svg = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], svg).replace("<svg ", f"<svg {place} ", 1)
    strips, below = _strips(results), MARGIN + tall + 16
    return templates(TEMPLATES).get_template("picture.svg").render(
        bars=svg, strips=strips, legend=legend(results), table=table(results), width=WIDTH, below=below,
        height=below + (132 if strips else 16), **{name: colours[name] for name in ("page", "ink", "soft")},
    )  # fmt: skip


def _strips(results: Results) -> list[dict[str, Any]]:
    """The first example's clips, and the last layer of the first clip with attention: title and frames as data URIs."""
    from ..pages.thumbnails import picture_uri

    found = []
    for example in results.examples[:1]:
        found += [("ego: what the teacher saw", example.ego_frames), ("exo: what the students see", example.exo_frames)]
    for clip in results.attention[:1]:
        found.append((f"where the ego tokens look ({clip.layers[-1]})", overlaid(clip, len(clip.layers) - 1)))
    return [{"title": title, "uris": [picture_uri(frames[i], limit=96, quality=80) for i in _spaced(len(frames))]}
            for title, frames in found]  # fmt: skip


def _spaced(count: int) -> list[int]:
    """At most `FRAMES` indices below `count`, evenly spaced, first and last among them."""
    wanted = min(count, FRAMES)
    return [round(i * (count - 1) / max(wanted - 1, 1)) for i in range(wanted)]


def overlaid(clip: ClipAttention, layer: int) -> np.ndarray:
    """A layer's attention laid over the frames: (T, H, W, 3) uint8."""
    import numpy as np

    from ..pages.thumbnails import heat

    height, width = clip.frames.shape[1:3]
    down, across = clip.maps.shape[2:]
    row, column = np.arange(height) * down // height, np.arange(width) * across // width  # the patch of each pixel
    over = heat(scaled(clip.maps[layer])[0]).astype(float)[:, row[:, None], column[None, :]]
    alpha = over[..., 3:] / 255
    return (over[..., :3] * alpha + clip.frames * (1 - alpha)).round().astype(np.uint8)
