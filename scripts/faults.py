"""The table of faults of docs/hard-use.md: runs every test that is marked `fault` and prints what was tried.

    python scripts/faults.py                 # all of them
    python scripts/faults.py tests/host      # those of some files

A row counts as lost what did not survive, and a test with such a row fails, so that this script does too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _bench import table

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the tests and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="*", default=["tests"], help="tests to look in (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "faults.jsonl"
        kept.touch()
        # Tests talk to stderr here, so that stdout holds the table alone.
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "fault", *args.paths],
            cwd=ROOT, env={**os.environ, "EGO2EXO_FAULTS": str(kept)}, stdout=sys.stderr,
        )  # fmt: skip
        rows = summed([json.loads(line) for line in kept.read_text().splitlines()])
    print(json.dumps(rows, indent=1) if args.json else "\n".join(lines(rows)))
    return run.returncode


def summed(rows: list[dict]) -> list[dict]:
    """One row a fault, in the order of its first test."""
    found: dict[str, dict] = {}
    for row in rows:
        kept = found.setdefault(row["fault"], {"fault": row["fault"], "tried": 0, "survived": 0})
        kept["tried"] += row["tried"]
        kept["survived"] += row["survived"]
    return [{**row, "lost": row["tried"] - row["survived"]} for row in found.values()]


def lines(rows: list[dict]) -> list[str]:
    """The rows as a Markdown table with their sum."""
    heads = ["fault", "tried", "survived", "lost"]
    total = ["**together**", *(sum(row[key] for row in rows) for key in heads[1:])]
    return table(heads, [*([row[key] for key in heads] for row in rows), total])


if __name__ == "__main__":
    sys.exit(main())
