"""Seconds to check a training file: every row's form, turns and placeholders, and that its files are there.

    python scripts/bench_rows.py

The rows are made up: one conversation of a caption's length each, about videos that --folders folders hold in equal
parts. Videos are empty files, because the check asks only whether they are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from _bench import machine

from llava_ego2exo.common.json_io import set_max_mb
from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.host.preflight import data
from llava_ego2exo.host.settings import Settings

ANSWER = "The person takes the knife from the board and cuts the cucumber into thin slices. " * 6


def main() -> int:
    """Print seconds of parsing and of the whole check, and how often the disk was asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="(default: 1,000,000)")
    parser.add_argument("--videos", type=int, default=300_000, help="distinct ones (default: 300,000)")
    parser.add_argument("--folders", type=int, default=1, help="that hold them (default: 1)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        file = write(Path(name), args)
        set_max_mb(4096)
        began = time.perf_counter()
        with data._no_collection():
            data.read_samples(str(file))
        parsed = time.perf_counter() - began
        values = {"data_path": str(file), "video_folder": name}
        settings, began = Settings(values, frozenset(), {}), time.perf_counter()
        with (
            mock.patch.object(data, "_kind_of", side_effect=data._kind_of) as asked,
            mock.patch.object(data, "_files_in", side_effect=data._files_in) as listed,
        ):
            rows = data.check_data(settings, Ego2ExoConfig())
        whole = time.perf_counter() - began
        size = file.stat().st_size / 2**20
    disk = f"{asked.call_count} files asked for, {listed.call_count} folders listed"
    print(f"{machine('cpu')}\n{len(rows)} rows, {size:.0f} MiB: {whole:.1f} s, of which {parsed:.1f} s parsing; {disk}")
    return 0


def write(folder: Path, args: argparse.Namespace) -> Path:
    """The training file, and the videos that it names."""
    names = [f"{number % args.folders}/{number}.mp4" for number in range(args.videos)]
    for part in range(args.folders):
        (folder / str(part)).mkdir()
    for name in names:
        (folder / name).touch()
    with (folder / "train.json").open("w", encoding="utf-8") as file:
        for number in range(args.rows):
            turns = [{"from": "human", "value": "<video>\nDescribe it."}, {"from": "gpt", "value": ANSWER}]
            row = {"id": str(number), "video": names[number % args.videos], "conversations": turns}
            file.write(("[" if number == 0 else ",\n") + json.dumps(row))
        file.write("]")
    return folder / "train.json"


if __name__ == "__main__":
    sys.exit(main())
