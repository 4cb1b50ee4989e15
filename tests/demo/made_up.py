"""Results that no run gave, to show in a report."""

import numpy as np

from llava_ego2exo.demo.results import ABLATIONS, ClipAttention, Example, Results

CHANCE = {"hand": 50.0, "object": 25.0, "region": 25.0, "order": 50.0}
MEANS = {
    "base": 38.0, "control": 38.0, "distill": 77.0, "pooled-16": 60.0, "pooled-8": 50.0, "pooled-4": 40.0,
    "tokens-16": 74.0, "tokens-8": 72.0, "tokens-4": 70.0, "distill+tokens-16": 77.0, "teacher": 94.0,
}  # fmt: skip
SIZES = {name: int(name.rsplit("-")[-1]) if "-" in name else 144 for name in MEANS} | {"distill+tokens-16": 160}


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
        trained={name: accuracies(MEANS[name] + 3) for name in variants},
        written={name: {"facts": [MEANS[name]] * seeds, "whole": [MEANS[name] / 2] * seeds} for name in variants},
        chance=CHANCE,
        visual_tokens={name: SIZES[name] for name in variants},
        answer_seconds={name: rng.normal(0.004, 0.0003, seeds).tolist() for name in variants},
        ablations={name: {one: accuracies(MEANS[name] - 9 * place) for place, one in enumerate(ABLATIONS)
                          if "+" in name or one in ("none", "other clip")}
                   for name in variants if "tokens" in name},
        answer_attention={name: {"ego tokens": [0.3] * seeds, "visual tokens": [0.1] * seeds, "text": [0.6] * seeds}
                          for name in variants if "tokens" in name},
        probe={view: {name: [80.0 + i for i in range(seeds)] for name in list(CHANCE)[:3]} for view in ("ego", "exo")},
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
