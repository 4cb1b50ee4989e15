"""How long the package and its command take to start: in processes of their own, beside Python itself.

python scripts/bench_startup.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from _bench import add_common, machine, show, side_by_side, table

IMPORT = "import time; began = time.perf_counter(); import llava_ego2exo; print(time.perf_counter() - began)"


def main() -> int:
    """Print milliseconds; the import alone is timed inside its process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    args = parser.parse_args()
    imported = []

    def python(*words: str) -> str:
        return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout

    ways = {
        "python -c pass": lambda: python("-c", "pass"),
        "import llava_ego2exo": lambda: imported.append(float(python("-c", IMPORT))),
        "llava-ego2exo --help": lambda: python("-m", "llava_ego2exo", "--help"),
    }
    seconds = side_by_side(ways, args.rounds)
    found = {"machine": machine("cpu"), "seconds": seconds, "import_alone": sorted(imported)[len(imported) // 2]}
    rows = [["the import alone", f"{found['import_alone'] * 1000:.0f}"]]
    rows += [[f"`{name}`, whole process", f"{value * 1000:.0f}"] for name, value in seconds.items()]
    show(args, found, [found["machine"], "", *table(["start", "milliseconds"], rows)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
