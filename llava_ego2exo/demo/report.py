"""The demo's report: `report.html`, one file that works from disk, `metrics.json`, and a picture for a README."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import write_atomic
from ..common.pages import INK, SERIES, SHARED, drawing, svg, templates
from ..errors import require_package
from .results import (
    ABLATIONS,
    CHANCE,
    MEAN,
    VARIANTS,
    ClipAttention,
    Example,
    Results,
    ablation_rows,
    cell,
    differences,
    legend,
    metrics,
    rows,
    spread,
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
    from ..common.pages import gradient

    require_package("matplotlib", "report")
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

    for number, (column, values, chance) in enumerate(_panels(results) if results.variants else ()):
        title = "mean over question types" if column == MEAN else column
        label = f"Percent right of each variant, {title}; the numbers are in the table above"
        yield bars([(title, values, chance)], range(len(values)), f"bars{number}", label)


def _ablation_bars(results: Results) -> Iterator[str]:

    chance = rows(results)[CHANCE][MEAN]["mean"]
    for number, (variant, ablated) in enumerate(ablation_rows(results).items()):
        values = {ABLATIONS[name]: with_mean(results.ablations[variant][name])[MEAN] for name in ablated}
        label = f"Percent right of {variant}, mean over question types, by ablation; the numbers are in the table"
        colours = [list(results.variants).index(variant)] * len(values)
        yield bars([(variant, values, chance)], colours, f"ablation{number}", label)


def _example(example: Example) -> dict[str, Any]:
    from ..common.pages import picture_uri

    views = {"ego": example.ego_frames, "exo": example.exo_frames}
    return {"question": example, **{view: [picture_uri(frame) for frame in frames] for view, frames in views.items()}}


def _attention(clip: ClipAttention) -> dict[str, Any]:
    from ..common.pages import heat, picture_uri

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

    require_package("matplotlib", "report")
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
    from ..common.pages import picture_uri

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

    from ..common.pages import heat

    height, width = clip.frames.shape[1:3]
    down, across = clip.maps.shape[2:]
    row, column = np.arange(height) * down // height, np.arange(width) * across // width  # the patch of each pixel
    over = heat(scaled(clip.maps[layer])[0]).astype(float)[:, row[:, None], column[None, :]]
    alpha = over[..., 3:] / 255
    return (over[..., :3] * alpha + clip.frames * (1 - alpha)).round().astype(np.uint8)


# Figures of the demo's report, as SVG that takes its colours from the page.

_DASHES = ("-", "--", "-.", ":")
POINTS = 150  # of a curve: more are averaged in blocks


def bars(
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]], float]],
    colours: Sequence[int],
    name: str,
    label: str,
    width: float = 3.4,
) -> str:
    """Bars side by side, each panel with the same rows: mean, standard deviation, a dot a seed, and chance dashed.

    Args:
        panels: (title, row -> percent of each seed, chance).
        colours: of each row, by number.
        name: for ids inside the page.
        label: what a screen reader says.
        width: inches.

    Returns:
        An `<svg>` element.
    """
    rows = list(panels[0][1])
    with drawing(width, 0.25 * len(rows) + 0.55) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for place, (title, values, chance) in zip(axes, panels, strict=True):
            for row, (seeds, colour) in enumerate(zip(values.values(), colours, strict=True)):
                _bar(place, row, seeds, SERIES[colour % 8])
            place.axvline(chance, color=INK, linewidth=1, linestyle="--", zorder=4)
            place.set_title(title)
            place.set_xlim(0, 100)
            place.set_xticks([0, 50, 100])
            place.set_ylim(len(rows) - 0.5, -0.5)
            place.set_yticks(range(len(rows)), rows)
            place.tick_params(axis="y", length=0)
        return svg(figure, name, label)


def _bar(axes: Any, row: int, seeds: Sequence[float], colour: str) -> None:
    value = spread(seeds)
    axes.barh(row, value["mean"], height=0.68, color=colour, alpha=0.6, linewidth=0)
    if value["n"] > 1:
        axes.errorbar(value["mean"], row, xerr=value["std"], color=INK, linewidth=1, capsize=2, zorder=3)
        axes.plot(seeds, [row] * len(seeds), ".", color=INK, markersize=3, zorder=3)
    # Outside the axes, where no line crosses it.
    axes.text(1.04, row, cell(value), transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def curves(runs: Mapping[str, Sequence[Sequence[tuple[int, float]]]], colours: Sequence[str], name: str) -> str:
    """Training loss by step, a line a seed; a variant has one colour and one dash.

    Args:
        runs: variant -> for each seed (step, loss) pairs.
        colours: names in the order of their colours, as in the bars.
        name: for ids inside the page.
    """
    with drawing(4.6, 3.0) as figure:
        axes = figure.subplots()
        for variant, seeds in runs.items():
            index = colours.index(variant) if variant in colours else len(colours)
            look = {"color": SERIES[index % 8], "linestyle": _DASHES[index % 4], "linewidth": 1.3}
            for number, seed in enumerate(seeds):
                steps, losses = zip(*_thinned(seed), strict=True) if seed else ((), ())
                axes.plot(steps, losses, **look, **({"alpha": 0.5} if number else {"label": variant}))
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, handlelength=3)
        return svg(figure, name, f"Training loss by step of {', '.join(runs)}")


def _thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, each the mean of as many neighbours."""
    size = -(-len(curve) // POINTS)
    blocks = [curve[start : start + size] for start in range(0, len(curve), size or 1)]
    return [tuple(sum(values) / len(block) for values in zip(*block, strict=True)) for block in blocks]
