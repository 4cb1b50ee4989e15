"""The demo's report: `report.html`, one file that works from disk, `metrics.json`, and a picture for a README."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import write_atomic
from ..common.pages import INK, SERIES, SHARED, drawing, gradient, heat, picture_uri, svg, templates
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

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, MARGIN = 960, 12  # of the picture, in pixels
_DASHES = ("-", "--", "-.", ":")


def write_report(results: Results, out: str | Path) -> Path:
    """Write `report.html`, `picture.svg` and `metrics.json`, each whole or not at all.

    Args:
        results: what to show.
        out: the folder, made where it is missing.

    Returns:
        The report.
    """
    folder, html, drawn = Path(out), report_html(results), picture(results)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "metrics.json", json.dumps(metrics(results), indent=2) + "\n")
    write_atomic(folder / "picture.svg", drawn)
    return write_atomic(folder / "report.html", html)


def report_html(results: Results) -> str:
    """The report as text."""
    found = rows(results)
    values = {
        "results": results, "rows": found, "ablations": ablation_rows(results), "differences": differences(results),
        "legend": legend(results), "bars": _variant_bars(results), "ablation_bars": _ablation_bars(results),
        "curves": curves(results), "examples": [_example(example) for example in results.examples],
        "attention": [_attention(clip) for clip in results.attention], "gradient": gradient(), "labels": ABLATIONS,
        "meanings": {name: VARIANTS[name] for name in found if name in VARIANTS}, "CHANCE": CHANCE, "MEAN": MEAN,
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
    chance = rows(results)[CHANCE]
    return [(column, {name: types[column] for name, types in full.items()}, chance[column]["mean"])
            for column in (MEAN, *results.chance)]  # fmt: skip


def _variant_bars(results: Results) -> list[str]:
    label = "Percent right of each variant, {}; the numbers are in the table above"
    return [
        bars([panel], range(len(results.variants)), f"bars{number}", label.format(panel[0]))
        for number, panel in enumerate(_panels(results))
    ]


def _ablation_bars(results: Results) -> list[str]:
    label = "Percent right of {}, mean over question types, by ablation; the numbers are in the table"
    chance, names, figures = rows(results)[CHANCE][MEAN]["mean"], list(results.variants), []
    for number, (variant, ablated) in enumerate(results.ablations.items()):
        values = {ABLATIONS[name]: with_mean(types)[MEAN] for name, types in ablated.items()}
        colours = [names.index(variant)] * len(values)
        figures.append(bars([(variant, values, chance)], colours, f"ablation{number}", label.format(variant)))
    return figures


def _example(example: Example) -> dict[str, Any]:
    views = {"ego": example.ego_frames, "exo": example.exo_frames}
    return {"question": example, **{view: [picture_uri(frame) for frame in frames] for view, frames in views.items()}}


def _attention(clip: ClipAttention) -> dict[str, Any]:
    layers = []
    for name, layer in zip(clip.layers, clip.maps, strict=True):
        shares, times = _scaled(layer)
        cells = [{"heat": picture_uri(colours), "share": f"{100 * float(frame.sum()):.0f}% of the attention"}
                 for colours, frame in zip(heat(shares), layer, strict=True)]  # fmt: skip
        layers.append({"name": name, "times": times, "cells": cells})
    height, width = clip.frames.shape[1:3]
    frames = [picture_uri(frame) for frame in clip.frames]
    return {"title": clip.title, "frames": frames, "ratio": f"{width} / {height}", "layers": layers}


def _scaled(layer: np.ndarray) -> tuple[np.ndarray, float]:
    """A layer's attention (T, h, w) from 0 to 1 for colours, and its largest as a multiple of the even share.

    1 is the largest, but at least twice the even share, so that an even layer appears even.
    """
    times = layer * layer.size
    return times / max(times.max(), 2.0), float(times.max())


def picture(results: Results) -> str:
    """An SVG for a README: bars of the table, a pair of clips, and the attention of the ego tokens.

    Below 150 kB, on a light ground, without fonts or anything from elsewhere.
    """
    light = (SHARED / "page.css").read_text(encoding="utf-8").split("@media")[0]
    colours = dict(re.findall(r"--(\w+): (#\w+)", light))
    chart = bars(_panels(results), range(len(results.variants)), "picture", "bars", width=10.4)
    wide, high = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart).groups())
    inner = WIDTH - 2 * MARGIN
    tall = round(inner * high / wide)
    place = f'x="{MARGIN}" y="{MARGIN}" width="{inner}" height="{tall}"'
    # Fixed colours: what shows a README's pictures need not know variables.
    chart = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], chart).replace("<svg ", f"<svg {place} ", 1)
    below = MARGIN + tall + 16
    return templates(TEMPLATES).get_template("picture.svg").render(
        bars=chart, strips=_strips(results), legend=legend(results), table=table(results), width=WIDTH, below=below,
        height=below + 132, **{name: colours[name] for name in ("page", "ink", "soft")},
    )  # fmt: skip


def _strips(results: Results) -> list[dict[str, Any]]:
    """The first example's clips, and the last layer of the first clip with attention: title and frames as data URIs."""
    example = results.examples[0]
    found = [("ego: what the teacher saw", example.ego_frames), ("exo: what the students see", example.exo_frames)]
    for clip in results.attention[:1]:
        found.append((f"attention of the ego tokens ({clip.layers[-1]})", overlaid(clip, len(clip.layers) - 1)))
    return [{"title": title, "uris": [picture_uri(frame, limit=96, quality=80) for frame in frames]}
            for title, frames in found]  # fmt: skip


def overlaid(clip: ClipAttention, layer: int) -> np.ndarray:
    """A layer's attention laid over the frames: (T, H, W, 3) uint8."""
    height, width = clip.frames.shape[1:3]
    down, across = clip.maps.shape[2:]
    row, column = np.arange(height) * down // height, np.arange(width) * across // width  # the patch of each pixel
    over = heat(_scaled(clip.maps[layer])[0]).astype(float)[:, row[:, None], column[None, :]]
    alpha = over[..., 3:] / 255
    return (over[..., :3] * alpha + clip.frames * (1 - alpha)).round().astype(np.uint8)


def bars(
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]], float]], colours: Sequence[int], name: str, label: str,
    width: float = 3.4,
) -> str:  # fmt: skip
    """Bars side by side, each panel with the same rows: mean, standard deviation, a dot a seed, and chance dashed.

    Args:
        panels: (title, row -> percent of each seed, chance).
        colours: of each row, by number.
        name: for ids inside the page.
        label: for screen readers.
        width: inches.

    Returns:
        An `<svg>` element that takes its colours from the page.
    """
    names = list(panels[0][1])
    with drawing(width, 0.25 * len(names) + 0.55) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for place, (title, values, chance) in zip(axes, panels, strict=True):
            for row, (seeds, colour) in enumerate(zip(values.values(), colours, strict=True)):
                value = spread(seeds)
                place.barh(row, value["mean"], height=0.68, color=SERIES[colour % 8], alpha=0.6, linewidth=0)
                if value["n"] > 1:
                    place.errorbar(value["mean"], row, xerr=value["std"], color=INK, linewidth=1, capsize=2, zorder=3)
                    place.plot(seeds, [row] * len(seeds), ".", color=INK, markersize=3, zorder=3)
                # Outside the axes, where no line crosses it.
                place.text(1.04, row, cell(value), transform=place.get_yaxis_transform(), va="center", fontsize=8)
            place.axvline(chance, color=INK, linewidth=1, linestyle="--", zorder=4)
            place.set_title(title)
            place.set_xlim(0, 100)
            place.set_xticks([0, 50, 100])
            place.set_ylim(len(names) - 0.5, -0.5)
            place.set_yticks(range(len(names)), names)
            place.tick_params(axis="y", length=0)
        return svg(figure, name, label)


def curves(results: Results) -> str:
    """Training loss by step, a line a seed; a variant has the colour of its bars, and one dash."""
    names = list(results.variants)
    with drawing(4.6, 3.0) as figure:
        axes = figure.subplots()
        for variant, seeds in results.curves.items():
            index = names.index(variant)
            line = {"color": SERIES[index % 8], "linestyle": _DASHES[index % 4], "linewidth": 1.3}
            for number, seed in enumerate(seeds):
                steps, losses = zip(*seed, strict=True)
                axes.plot(steps, losses, **line, **({"alpha": 0.5} if number else {"label": variant}))
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, handlelength=3)
        return svg(figure, "curves", f"Training loss by step of {', '.join(results.curves)}")
