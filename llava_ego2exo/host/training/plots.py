"""What a run shows at its end: curves of what it has logged, and the samples of its on-policy steps."""

from __future__ import annotations

import base64
import importlib.util
import io
from itertools import groupby
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...common.pages import templates

# Curves in order, with their titles; those that a run has not logged are omitted.
CURVES = {
    "loss": "what is minimised, at each step",
    "loss_ce": "cross-entropy (nats a token)",
    "loss_kl": "T² KL or divergence (nats a token)",
    "kl_tokens": "tokens with a KL",
    "kl_capped": "share of tokens above the cap",
    "kl_left_out": "share of tokens left out",
    "on_policy": "share of on-policy batches",
    "sample_kl": "the same, of samples",
    "sample_entropy": "student's entropy in samples (nats)",
    "sample_tokens": "tokens a sample",
    "sample_ended": "share of samples that ended",
    "answer_tokens": "answer tokens a sample",
    "supervised_share": "supervised share of positions",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
}
FILE, PAGE = "losses.png", "samples.html"
SHOWN = 200  # samples on the page


def plot_losses(history: list[dict[str, Any]], folder: str) -> str:
    """Write `losses.png` of the trainer's log into a folder; returns one line that says what was done."""
    found = {name: [(entry["step"], entry[name]) for entry in history if name in entry] for name in CURVES}
    found = {name: points for name, points in found.items() if len(points) > 1}
    if not found:
        return "no plots: fewer than two steps were logged (--logging_steps)"
    if importlib.util.find_spec("matplotlib") is None:
        return "no plots: matplotlib is not installed (pip install 'llava-ego2exo[report]')"
    from matplotlib.figure import Figure

    rows = (len(found) + 1) // 2
    figure = Figure(figsize=(9, 2.1 * rows))
    axes = figure.subplots(rows, 2, squeeze=False, sharex=True).flat
    figure.subplots_adjust(left=0.08, right=0.97, top=1 - 0.15 / rows, bottom=0.3 / rows, wspace=0.2, hspace=0.35)
    figure.supxlabel("optimizer step", fontsize=9)
    for axis in axes[len(found) :]:
        axis.remove()
    border = max((entry["step"] for entry in history if entry.get("bottleneck")), default=None)
    for axis, (name, points) in zip(axes, found.items(), strict=False):
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
        axis.set_title(f"{name}: {CURVES[name]}", fontsize=9)
        if border is not None:  # the bottleneck's last step
            axis.axvline(border, color="0.7", linestyle="--")
        axis.tick_params(labelsize=8, labelbottom=True)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    file = write_atomic(Path(folder, FILE), content.getvalue())
    return f"plots of the run: {file}"


def write_samples(samples: list[dict[str, Any]], file: Path) -> str:
    """Write `samples.html` beside `samples.jsonl`, which holds the `samples`; returns one line that says what was done.

    Of more than `SHOWN` records the last ones are shown.
    """
    if importlib.util.find_spec("jinja2") is None:
        return f"samples: {file}; no page: jinja2 is not installed (pip install 'llava-ego2exo[report]')"
    shown = samples[-SHOWN:]
    steps = [(step, list(of)) for step, of in groupby(shown, lambda one: one["step"])]
    page = templates(Path(__file__).parent / "templates").get_template(PAGE)
    plots = file.with_name(FILE)
    picture = base64.b64encode(plots.read_bytes()).decode() if plots.is_file() else ""
    text = page.render(steps=steps[::-1], shown=len(shown), total=len(samples), file=file.name, picture=picture)
    return f"samples: {write_atomic(file.with_name(PAGE), text)}"
