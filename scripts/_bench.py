"""What the scripts `bench_*.py` share: ways of doing one thing measured side by side, and how results are shown."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llava_ego2exo.common.text import markdown_table  # noqa: E402

Ways = dict[str, Callable[[], object]]


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags of every benchmark."""
    parser.add_argument("--rounds", type=int, default=5, help="each way runs so often, in turn with the others")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=found, help=f"(default here: {found})")
    parser.add_argument("--dtype", help="of weights and states (default: bfloat16 on cuda, else float32)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    """What --dtype says, or what suits the device."""
    return getattr(torch, args.dtype or ("bfloat16" if args.device.startswith("cuda") else "float32"))


def machine(device: str) -> str:
    """Processor, threads and torch: measured numbers mean nothing without them."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'cpu'}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def side_by_side(ways: Ways, rounds: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each way, the GPU's work included.

    The ways take turns, so that a machine that slows down slows all of them down; a first round warms up.
    """
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            wait()
            began = time.perf_counter()
            run()
            wait()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_bytes(run: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes of tensors alive at once during a call, beyond those before it.

    On the CPU what a kernel takes for itself is not seen.
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    from llava_ego2exo.planning.memory import LiveBytes

    with LiveBytes() as live:
        run()
    return live.peak


def table(heads: list[str], rows: list[list[object]]) -> list[str]:
    """Lines of a Markdown table."""
    return markdown_table(heads, rows).splitlines()


def about(found: dict) -> str:
    """The machine and the settings of a result, in one line."""
    facts = [f"{name} {value}" for name, value in found.items() if name != "machine" and isinstance(value, str | int)]
    return "; ".join([found["machine"], *facts])


def show(args: argparse.Namespace, found: dict, lines: list[str]) -> None:
    """Print what was found as JSON where that was asked for, else the lines."""
    print(json.dumps(found, indent=1) if args.json else "\n".join(lines))
