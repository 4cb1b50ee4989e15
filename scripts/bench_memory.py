"""The memory of a training step beside what `llava-ego2exo plan` tells: frames, bits and sizes, each in its own run.

    python scripts/bench_memory.py                                            # on the CPU, an eighth of the real width
    python scripts/bench_memory.py --size 0.5b 7b --frames 8 32 64 --bits 4 16 --work DIR   # on a GPU, real shapes

Every setting is a run of LLaVA's own train script with random weights, batch 1, LoRA and gradient checkpointing; its
second step is measured. With --states the tower's layers are kept, moved to the host's memory, or read again.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import torch
from _bench import add_common, machine, show, table, timed
from _bench_model import LANGUAGE, batch, checkpoint, material, planned, step, trainer


def main() -> int:
    """Print measured and planned peaks, their ratios last."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--size", nargs="+", choices=tuple(LANGUAGE), default=["cpu"])
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--bits", type=int, nargs="+", default=[16], choices=(4, 16))
    parser.add_argument("--states", nargs="+", default=["keep"], choices=("keep", "offload", "recompute"))
    parser.add_argument("--work", type=Path, help="where checkpoints are kept for the next run (default: thrown away)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(product(args.size, args.bits, args.frames, args.states)):
            rows.append(measure(args, Path(folder) / str(number), args.work or Path(folder), *case))
    found = {"machine": machine(args.device), "rows": rows}
    show(args, found, lines(found))
    return 0


def measure(args: argparse.Namespace, folder: Path, work: Path, size: str, bits: int, frames: int, states: str) -> dict:
    """One setting: peak bytes, seconds of a step, and the plan's bytes."""
    base, data = checkpoint(size, work), material(folder / "material", frames, ("video",))
    flags = {"frames_upbound": frames, "bits": bits, "ego2exo_states": states}
    made = trainer(base, data, folder / "out", ego2exo=True, **flags)
    inputs = batch(made, (0,))
    peak, seconds = peak_of(made, inputs, args.device), timed(partial(step, made, inputs), args.device)
    plan = None if states == "offload" else planned(base, inputs, frames, bits, states)
    made = inputs = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"size": size, "bits": bits, "frames": frames, "states": states, "peak": peak, "plan": plan,
            "seconds": seconds}  # fmt: skip


def peak_of(made: object, inputs: dict, device: str) -> int:
    """Bytes alive at most in a step, weights and optimizer included."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        step(made, inputs)
        return torch.cuda.max_memory_allocated(device)
    from llava_ego2exo.planning.memory import LiveBytes, held_bytes

    before = held_bytes(made.model, made.optimizer) + sum(image.nbytes for image in inputs["images"])
    with LiveBytes() as live:
        step(made, inputs)
    return before + live.peak


def lines(found: dict) -> list[str]:
    """The numbers as text, the ratios in the last column."""
    rows = [
        [row["size"], row["bits"], row["frames"], row["states"], f"{row['seconds']:.2f}", f"{row['peak'] / 2**30:.3f}",
         *(["-", "-"] if row["plan"] is None else [f"{row['plan'] / 2**30:.3f}", f"{row['plan'] / row['peak']:.3f}"])]
        for row in found["rows"]
    ]  # fmt: skip
    heads = ["size", "bits", "frames", "states", "seconds a step", "peak GiB", "planned GiB", "planned / peak"]
    return [found["machine"], "", *table(heads, rows)]


if __name__ == "__main__":
    raise SystemExit(main())
