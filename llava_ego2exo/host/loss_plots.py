"""Pictures of what a run has logged."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

# What is drawn, in order, with its axis's name; what a run has not logged is left out.
CURVES = {
    "loss": "loss",
    "loss_ce": "cross-entropy (nats a token)",
    "loss_kl": "T² KL (nats a token)",
    "kl_tokens": "tokens with a KL",
    "answer_tokens": "answer tokens a sample",
    "supervised_share": "supervised share of positions",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
}
FILE = "losses.png"


def plot_losses(history: list[dict[str, Any]], folder: str) -> str:
    """Write `losses.png`.

    Args:
        history: the trainer's log.
        folder: where to.

    Returns:
        One line that says what was done.
    """
    found = {name: curve(history, name) for name in CURVES}
    found = {name: points for name, points in found.items() if points}
    if not found:
        return "nothing was logged, so there is nothing to plot"
    if importlib.util.find_spec("matplotlib") is None:
        return "no plots: matplotlib is not installed (pip install 'llava-ego2exo[report]')"
    from matplotlib.figure import Figure

    rows = (len(found) + 1) // 2
    figure = Figure(figsize=(9, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flat
    for axis in axes[len(found) :]:
        axis.remove()
    for axis, (name, points) in zip(axes, found.items(), strict=False):
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
        axis.set(ylabel=CURVES[name], xlabel="step")
    file = Path(folder, FILE)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)
    return f"plots of the run: {file}"


def curve(history: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """Steps and values of one logged number."""
    return [(entry["step"], entry[name]) for entry in history if name in entry]
