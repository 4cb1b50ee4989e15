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
    """Draw clips on two cameras, and ask two questions about each; colour and way of move are true.

    Args:
        folder: of the clips.
        clips: how many moments.
        first: number of the first; each number has a background of its own.

    Returns:
        Rows in Ego-in-Exo Perception's format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(first, first + clips):
        truth = list(COLOURS)[number % 4], list(MOVES)[(number + number // 4) % 4]
        for view, seed in (("exo1", number), ("ego", 100 + number)):
            render_clip(folder / f"t{number}_{view}.mp4", *truth, frames=4 + number % 3, seed=seed)
        for place, ((category, question, known), right) in enumerate(zip(QUESTIONS, truth, strict=True)):
            order = np.random.default_rng([number, place]).permutation(list(known)).tolist()
            choices = dict(zip("ABCD", order, strict=True))
            letter = next(key for key, text in choices.items() if text == right)
            rows.append({
                "video_filename": f"t{number}_exo1", "category_name": category, "question": question,
                "answer_choices": choices, "ground_truth_letter": letter,
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

    def command(self, out: str = "out", **flags) -> list[str]:
        """Flags override, see `command_line`."""
        values = {
            "benchmark": "ego-in-exo", "data": self.data, "videos": self.videos, "model": [f"base={self.model}"],
            "template": self.template, "out": out and self.root / out, "max_new_tokens": 6, "frames_upbound": 3,
        }  # fmt: skip
        return command_line("eval", {**values, **flags})

    def eval(self, out: str = "out", **flags) -> int:
        return cli.main(self.command(out, **flags))

    def replies(self, out: str = "out", model: str = "base", mode: str = "generate") -> bytes:
        return (self.root / out / model / mode / "replies.jsonl").read_bytes()

    def results(self, out: str = "out") -> list[dict]:
        return [json.loads(line) for line in (self.root / out / "results.jsonl").read_text().splitlines()]

    def metrics(self, out: str = "out") -> dict:
        return json.loads((self.root / out / "metrics.json").read_text())

    def row(self, out: str = "out", **wanted) -> dict:
        """The one row of metrics.json's accuracies that fits."""
        rows = self.metrics(out)["accuracy"]
        fitting = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
        assert len(fitting) == 1, (wanted, rows)
        return fitting[0]
