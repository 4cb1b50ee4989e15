"""How time and memory of the ego tokens grow with frames, tokens, layers that are read, and videos in a batch.

    python scripts/bench_growth.py --plot docs/growth.png      # on the CPU: the real sizes' proportions at a quarter
    python scripts/bench_growth.py --device cuda               # on a GPU: SigLIP so400m's sizes, bfloat16

One setting changes at a time, from 32 frames, 16 tokens, all 26 layers, one video. Time is forward and backward of the
tokens alone, not of the tower; memory is the most that they take beside their gradients, the layers' outputs included.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _bench import add_common, dtype_of, machine, peak_bytes, show, side_by_side, table

from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens

LAYERS = 26
SIZES = {"cuda": {"width": 1152, "heads": 16, "patches": 729}, "cpu": {"width": 288, "heads": 4, "patches": 100}}
BASE = {"frames": 32, "tokens": 16, "layers": LAYERS, "batch": 1}
STEPS = {
    "frames": (8, 16, 32, 64, 128, 180),
    "tokens": (4, 8, 16, 32, 64),
    "layers": (7, 13, 26),
    "batch": (1, 2, 4, 8),
}
LABELS = {
    "frames": "frames", "tokens": "tokens a video", "layers": "layers read (every 4th, every 2nd, all)",
    "batch": "videos in a batch",
}  # fmt: skip


def main() -> int:
    """Print seconds, peaks and how they grow."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--plot", type=Path, help="picture to write (.png or .svg; needs matplotlib)")
    args = parser.parse_args()
    if args.plot:
        from llava_ego2exo.pages.drawing import require_matplotlib

        require_matplotlib()
    sizes = SIZES["cuda" if args.device.startswith("cuda") else "cpu"]
    found = {
        "machine": machine(args.device), "dtype": str(dtype_of(args)).removeprefix("torch."), **sizes, "base": BASE,
        "growth": {name: {step: measure(args, sizes, {**BASE, name: step}) for step in STEPS[name]} for name in STEPS},
    }  # fmt: skip
    if args.plot:
        draw(found, args.plot)
    show(args, found, lines(found))
    return 0


def measure(args: argparse.Namespace, sizes: dict[str, int], setting: dict[str, int]) -> dict[str, float]:
    """Median seconds of forward and backward, and peak bytes with the layers' outputs."""
    torch.manual_seed(0)
    made = {"device": args.device, "dtype": dtype_of(args)}
    layers = range(0, LAYERS, -(-LAYERS // setting["layers"]))
    lengths = [setting["frames"]] * setting["batch"]
    reader = EgoAdaptiveTokens(setting["tokens"], sizes["width"], sizes["heads"], layers).to(**made)
    states = {i: torch.randn(sum(lengths), sizes["patches"], sizes["width"], **made) for i in layers}

    def run() -> None:
        reader(states, lengths).float().sum().backward()

    run()
    seconds = side_by_side({"run": run}, args.rounds, args.device)["run"]
    return {"seconds": seconds, "peak": peak_bytes(run, args.device) + sum(h.nbytes for h in states.values())}


def lines(found: dict) -> list[str]:
    """The numbers, growth last."""
    sizes = ", ".join(f"{name} {found[name]}" for name in ("width", "heads", "patches"))
    base = ", ".join(f"{name} {value}" for name, value in found["base"].items())
    rows, growth = [], []
    for name, steps in found["growth"].items():
        rows += [[name, step, f"{x['seconds']:.3f} s", f"{x['peak'] / 2**20:.1f} MiB"] for step, x in steps.items()]
        (small, first), *_, (large, last) = steps.items()
        times = [f"x{last[key] / first[key]:.2f}" for key in ("seconds", "peak")]
        growth.append([name, f"{small} to {large}", f"x{large / small:.2f}", *times])
    about = f"{found['machine']}; {found['dtype']}, {sizes}; elsewhere {base}"
    heads = ["what", "setting", "forward and backward", "peak with the layers' outputs"]
    return [about, "", *table(heads, rows), "", *table(["what", "from, to", "it grows", "time", "memory"], growth)]


def draw(found: dict, path: Path) -> None:
    """Four panels of time above four of memory; a thin line shows growth in proportion, from the smallest setting."""
    from llava_ego2exo.pages.drawing import drawing

    with drawing(10, 4.6) as figure:
        axes = figure.subplots(2, 4, sharey="row")
        for column, (name, steps) in enumerate(found["growth"].items()):
            at = list(steps)
            for row, (key, unit) in enumerate((("seconds", 1), ("peak", 2**20))):
                values, panel = [x[key] / unit for x in steps.values()], axes[row][column]
                panel.plot(at, [values[0] * x / at[0] for x in at], color="#bbbbbb", linewidth=0.8)
                panel.plot(at, values, color="#1f6f8b", marker="o", markersize=3)
                panel.set(xscale="log", yscale="log", xticks=at, xticklabels=at)
                panel.minorticks_off()
            axes[1][column].set_xlabel(LABELS[name])
        axes[0][0].set_ylabel("seconds, forward and backward")
        axes[1][0].set_ylabel("peak MiB, layers' outputs too")
        figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
