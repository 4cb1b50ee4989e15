"""A small benchmark with its videos, and the command that asks tiny models about it."""

import json
from pathlib import Path

import numpy as np

from llava_ego2exo import cli
from tests.videos import COLOURS, MOVES, render_clip

from ..models import is_next
from .asking import command_line

QUESTIONS = (("colour", "Which colour has the block?", COLOURS), ("move", "Where does the block move?", MOVES))


def perception_rows(folder: Path, clips: int = 4, first: int = 0) -> list[dict]:
    """Draw clips of moments on two cameras, from number `first` on; returns two true questions about each.

    Rows are in Ego-in-Exo Perception's format; each number has a background of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(first, first + clips):
        truth = list(COLOURS)[number % 4], list(MOVES)[(number + number // 4) % 4]
        for view, seed in (("exo1", number), ("ego", 100 + number)):
            render_clip(folder / f"t{number}_{view}.mp4", *truth, frames=4 + number % 3, seed=seed)
        for place, ((category, question, known), right) in enumerate(zip(QUESTIONS, truth, strict=True)):
            order = np.random.default_rng([number, place]).permutation(list(known)).tolist()
            rows.append({
                "video_filename": f"t{number}_exo1", "category_name": category, "question": question,
                "answer_choices": dict(zip("ABCD", order, strict=True)),
                "ground_truth_letter": "ABCD"[order.index(right)],
            })  # fmt: skip
    return rows


class Setting:
    """Files of an evaluation, and the command."""

    def __init__(self, root: Path, world, rows: list[dict] | None = None) -> None:
        self.root, self.kind = root, "qwen" if is_next() else "llama"
        self.model, self.template = world.base(self.kind), world.template(self.kind)
        self.videos, self.data = root / "videos", root / "all_category_qas.json"
        self.rows = perception_rows(self.videos) if rows is None else rows
        self.write(self.rows)

    def write(self, rows) -> None:
        self.data.write_text(json.dumps(rows))

    def rename(self, name: str) -> None:
        """Give the data the name of another benchmark's file."""
        self.data = self.data.rename(self.root / name)

    def eval(self, **flags) -> int:
        """Exit code; flags override, see `command_line`."""
        values = {
            "benchmark": "ego-in-exo", "data": self.data, "videos": self.videos, "model": f"base={self.model}",
            "template": self.template, "out": self.root / "out", "max_new_tokens": 6, "frames_upbound": 3,
        }  # fmt: skip
        return cli.main(command_line("eval", {**values, **flags}))

    def replies(self, mode: str = "generate") -> bytes:
        return (self.root / "out" / "base" / mode / "replies.jsonl").read_bytes()

    def results(self) -> list[dict]:
        return [json.loads(line) for line in (self.root / "out" / "results.jsonl").read_text().splitlines()]

    def metrics(self) -> dict:
        return json.loads((self.root / "out" / "metrics.json").read_text())

    def row(self, **wanted) -> dict:
        """The one row of metrics.json's accuracies that fits."""
        (row,) = [row for row in self.metrics()["accuracy"] if wanted.items() <= row.items()]
        return row
