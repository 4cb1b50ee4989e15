"""The demo's report: `report.html`, one file that works from disk, `metrics.json`, and a picture for a README."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.files import write_atomic
from ..common.pages import INK, SERIES, SHARED, drawing, gradient, heat, overlaid, picture_uri, scaled, svg, templates
from .results import (
    ABLATIONS,
    CHANCE,
    MEAN,
    RECEIVERS,
    SPLITS,
    TRAINED,
    VARIANTS,
    WRITTEN,
    ClipAttention,
    Example,
    Results,
    ablation_rows,
    accuracy,
    attention_rows,
    cell,
    differences,
    legend,
    metrics,
    milliseconds,
    rows,
    spread,
    table,
    with_mean,
)

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, MARGIN = 960, 12  # of the picture, in pixels
LINES = {  # of the plot: names of variants that differ in the number of visual tokens alone
    "ordinary tokens, pooled": r"pooled-\d+|distill",
    "ego tokens alone": r"tokens-\d+",
}
_DASHES = ("-", "--", "-.", ":")
_SIDE = 108  # of a frame in the picture


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
    probed = {view: {name: spread(seeds) for name, seeds in types.items()} for view, types in results.probe.items()}
    values = {
        "results": results, "rows": found, "ablations": ablation_rows(results), "differences": differences(results),
        "milliseconds": {name: milliseconds(results, name) for name in found}, "splits": SPLITS, "WRITTEN": WRITTEN,
        "TRAINED": TRAINED, "shares": attention_rows(results), "receivers": RECEIVERS, "probe": probed,
        "attributes": list(next(iter(probed.values()), ())),
        "sizes": size_plot(results, "sizes") if lines(results) else "", "legend": legend(results),
        "bars": _variant_bars(results), "ablation_bars": _ablation_bars(results),
        "curves": curves(results), "examples": [_example(example) for example in results.examples],
        "attention": [_attention(clip) for clip in results.attention], "gradient": gradient(), "labels": ABLATIONS,
        "meanings": {name: VARIANTS[name] for name in found if name in VARIANTS}, "CHANCE": CHANCE, "MEAN": MEAN,
    }  # fmt: skip
    return templates(TEMPLATES, signed=_signed, duration=_duration).get_template("report.html").render(values)


def _duration(seconds: float) -> str:
    """Seconds, and minutes from two on: "45.3 s", "12 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.1f} s" if seconds < 120 else f"{minutes} min {rest} s"


def _signed(points: float, unit: str = "points") -> str:
    """A difference, with a real minus sign, or a share in percent."""
    return f"{points:.1f}%" if unit == "percent" else f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


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
        shares, times = scaled(layer)
        cells = [{"heat": picture_uri(colours), "share": f"{100 * float(frame.sum()):.0f}% of the attention"}
                 for colours, frame in zip(heat(shares), layer, strict=True)]  # fmt: skip
        layers.append({"name": name, "times": times, "cells": cells})
    height, width = clip.frames.shape[1:3]
    frames = [picture_uri(frame) for frame in clip.frames]
    return {"title": clip.title, "frames": frames, "ratio": f"{width} / {height}", "layers": layers}


def picture(results: Results) -> str:
    """An SVG for a README: the plot of sizes or bars of the table, a pair of clips, and attention of the ego tokens.

    Below 150 kB, on a light ground, without fonts or anything from elsewhere.
    """
    light = (SHARED / "page.css").read_text(encoding="utf-8").split("@media")[0]
    colours = dict(re.findall(r"--(\w+): (#\w+)", light))
    strips, beside = _strips(results), bool(lines(results))
    if beside:
        chart, room = size_plot(results, "picture", 7.2, 4.6), WIDTH - 3 * MARGIN - 2 * (_SIDE + 3)
        note = "Percent right on new clips of trained and of held-out pairs of objects"
    else:
        chart = bars(_panels(results), range(len(results.variants)), "picture", "bars", width=10.4)
        room, note = WIDTH - 2 * MARGIN, "Percent right on new clips of held-out pairs of objects, chance dashed"
    wide, high = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart).groups())
    tall = round(room * high / wide)
    place = f'x="{MARGIN}" y="{MARGIN}" width="{room}" height="{tall}"'
    # Fixed colours: what shows a README's pictures need not know variables.
    chart = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], chart).replace("<svg ", f"<svg {place} ", 1)
    below = MARGIN + tall + 16
    for number, strip in enumerate(strips):  # under each other beside the plot, beside each other under the bars
        strip["x"] = 2 * MARGIN + room if beside else 16 + 316 * number
        strip["y"] = MARGIN + 14 + number * (_SIDE + 34) if beside else below + 34
    height = max([below + 14, *(strip["y"] + _SIDE + 22 for strip in strips)])
    return templates(TEMPLATES).get_template("picture.svg").render(
        chart=chart, strips=strips, note=note, legend=legend(results), table=table(results), width=WIDTH, side=_SIDE,
        below=below, height=height, **{name: colours[name] for name in ("page", "ink", "soft")},
    )  # fmt: skip


def _strips(results: Results) -> list[dict[str, Any]]:
    """The first example's clips, and the last layer of the first clip with attention: title, first and last frame."""
    example = results.examples[0]
    found = [("ego: what the teacher saw", example.ego_frames), ("exo: what the students see", example.exo_frames)]
    for clip in results.attention[:1]:
        found.append((f"the ego tokens' attention, {clip.layers[-1]}", overlaid(clip.frames, clip.maps[-1])))
    return [{"title": title, "uris": [picture_uri(frame, limit=96, quality=80) for frame in frames[[0, -1]]]}
            for title, frames in found]  # fmt: skip


def lines(results: Results) -> dict[str, list[tuple[int, str]]]:
    """The lines of the plot that have two points or more: title -> (visual tokens, variant), ascending."""
    found = {
        title: sorted((results.visual_tokens[name], name) for name in results.variants if re.fullmatch(names, name))
        for title, names in LINES.items()
    }
    return {title: points for title, points in found.items() if len(points) > 1}


def size_plot(results: Results, name: str, width: float = 6.4, height: float = 3.8) -> str:
    """Accuracy against visual tokens a clip, a line for each of :func:`lines`; teacher, control and chance.

    Mean and standard deviation over seeds, a dot a seed. `name`, `width` and `height` as for :func:`bars`.
    """
    drawn = lines(results)
    label = f"Percent right against visual tokens per clip: {', '.join(drawn)}; the numbers are in the table"
    with drawing(width, height) as figure:
        axes = figure.subplots()
        for number, (title, points) in enumerate(drawn.items()):
            colour, sizes = SERIES[(2, 1)[number]], [size for size, _ in points]
            found = [spread(accuracy(results, variant)) for _, variant in points]
            means, stds = ([value[key] for value in found] for key in ("mean", "std"))
            axes.plot(sizes, means, "os"[number] + "-", color=colour, label=title, linewidth=2.2, markersize=6)
            low, high = zip(*((m - d, m + d) for m, d in zip(means, stds, strict=True)), strict=True)
            axes.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
            for size, value in zip(sizes, found, strict=True):
                if value["n"] > 1:
                    axes.plot([size] * value["n"], value["seeds"], ".", color=colour, markersize=4, alpha=0.6)
            for (size, variant), mean in zip(points, means, strict=True):
                if variant == "distill":
                    axes.annotate("all", (size, mean), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        chance = rows(results)[CHANCE][MEAN]["mean"]
        present = [one for one in ("teacher", "control") if one in results.variants]
        levels = {one: spread(accuracy(results, one))["mean"] for one in present}
        for title, value in {**levels, CHANCE: chance}.items():
            guess = title == CHANCE
            axes.axhline(value, color=INK, linewidth=1, linestyle="--" if guess else ":", zorder=0)
            # Control is mostly near chance: one label above its line, the other below.
            axes.annotate(f"{title} {value:.1f}", (1, value), (0, -2 if guess else 2), ha="right", fontsize=8,
                          va="top" if guess else "bottom", xycoords=axes.get_yaxis_transform(),
                          textcoords="offset points")  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks := sorted({size for points in drawn.values() for size, _ in points}), map(str, ticks))
        axes.minorticks_off()
        axes.set_xlabel("visual tokens per clip")
        axes.set_ylabel("percent right")
        axes.set_ylim(min(chance - 12, axes.dataLim.ymin), 100)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
        return svg(figure, name, label)


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
