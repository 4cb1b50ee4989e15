"""Results that no run gave, to show in a report."""

import numpy as np

from llava_ego2exo.demo.results import ABLATIONS, ClipAttention, Example, Results

CHANCE = {"hand": 50.0, "object": 25.0, "region": 25.0, "order": 50.0}
MEANS = {
    "base": 38.0, "control": 38.0, "distill": 77.0, "distill+tokens": 77.0, "distill+tokens+kl": 74.0,
    "tokens-only": 51.0, "teacher": 94.0,
}  # fmt: skip


def frames(seed):
    """Noise: (4, 32, 32, 3) uint8."""
    return np.random.default_rng(seed).normal(140, 30, (4, 32, 32, 3)).clip(0, 255).astype(np.uint8)


def maps(seed):
    """(3, 4, 4, 4): three layers of attention over four frames, each summing to 1."""
    sharp = np.exp(np.random.default_rng(seed).normal(size=(3, 4, 4, 4)))
    return sharp / sharp.sum((1, 2, 3), keepdims=True)


def made_up(seeds=3, variants=tuple(MEANS), examples=3, attention=2):
    """A whole set of results."""
    rng = np.random.default_rng(1)

    def accuracies(mean):
        return {kind: np.clip(mean + rng.normal(0, 5, seeds), 0, 100).tolist() for kind in CHANCE}

    options = ["left", "right"]
    return Results(
        variants={name: accuracies(MEANS[name]) for name in variants},
        chance=CHANCE,
        ablations={name: {one: accuracies(MEANS[name] - 9 * place) for place, one in enumerate(ABLATIONS)}
                   for name in variants if "tokens" in name},
        curves={name: [[(step, 2 / step) for step in range(1, 41)] for _ in range(seeds)]
                for name in variants if name not in ("base", "teacher")},
        examples=[
            Example(list(CHANCE)[i % 4], "Which hand holds the cup?", options, "left",
                    {name: options[(i + j) % 2] for j, name in enumerate(variants)}, frames(i), frames(i + 9),
                    "The left hand takes the cup, then puts it at the back.", "The left hand takes the cup.")
            for i in range(examples)
        ],
        attention=[ClipAttention(f"tokens, clip {i}", frames(i + 20), maps(i), ["layer 0", "layer 2", "layer 4"])
                   for i in range(attention)],
        settings={"seeds": list(range(seeds)), "llava": "next", "rate": 6e-3},
        commands=["bash scripts/demo.sh --seeds 3", "python -m llava_ego2exo.train --ego2exo True"],
        seconds={"base": 71.3, "everything": 412.6},
    )  # fmt: skip
