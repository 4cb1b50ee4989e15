"""Results that no run gave, to show in a report."""

import numpy as np

from llava_ego2exo.demo.results import ABLATIONS, ClipAttention, Example, Results

CHANCE = {"hand": 50.0, "object": 25.0, "region": 25.0, "order": 50.0}
MEANS = {
    "base": 38.0, "control": 38.0, "distill": 77.0, "distill+tokens": 77.0, "distill+tokens+kl": 74.0,
    "tokens-only": 51.0, "teacher": 94.0,
}  # fmt: skip


def frames(seed, count=4, size=64):
    """A moving blob on noise: (T, H, W, 3) uint8."""
    rng, grid = np.random.default_rng(seed), np.mgrid[:size, :size]
    clip = rng.normal(140, 6, (count, size, size, 3))
    clip[:, size * 2 // 3 :] -= (60, 80, 100)
    for index, frame in enumerate(clip):
        middle = np.array([size // 2, size * (index + 1) // (count + 2)])[:, None, None]
        frame[((grid - middle) ** 2).sum(0) < (size / 9) ** 2] = (210, 60, 60 + 20 * (seed % 5))
    return clip.clip(0, 255).astype(np.uint8)


def maps(layers=4, count=4, side=8, seed=0):
    """(layers, T, side, side), each layer summing to 1, the first nearly even and the last sharp."""
    rng = np.random.default_rng(seed)
    sharp = np.exp(np.linspace(0.02, 2.5, layers)[:, None, None, None] * rng.normal(size=(layers, count, side, side)))
    return sharp / sharp.sum((1, 2, 3), keepdims=True)


def accuracies(mean, seeds, rng):
    return {kind: np.clip(mean + rng.normal(0, 5, seeds), 0, 100).tolist() for kind in CHANCE}


def made_up(seeds=3, question="Which hand holds the cup?", variants=tuple(MEANS), examples=3, attention=2):
    """A whole set of results."""
    rng = np.random.default_rng(1)
    curves = {
        name: [
            [(step, float(2 * np.exp(-step / 90) + 0.3 + rng.normal(0, 0.02))) for step in range(1, 401)]
            for _ in range(seeds)
        ]
        for name in variants
        if name not in ("base", "teacher")
    }
    shown = [
        Example(
            list(CHANCE)[i % 4], question, ["left", "right"], "left",
            {name: ["left", "right"][(i + j) % 2] for j, name in enumerate(variants)}, frames(i), frames(i + 9),
            "The left hand takes the cup, then puts it at the back.", "The left hand takes the cup.",
        )
        for i in range(examples)
    ]  # fmt: skip
    students = [name for name in variants if "tokens" in name]
    ablations = {
        name: {how: accuracies(MEANS[name] - 9 * place, seeds, rng) for place, how in enumerate(ABLATIONS)}
        for name in students
    }
    return Results(
        variants={name: accuracies(MEANS[name], seeds, rng) for name in variants},
        chance=CHANCE,
        ablations=ablations,
        curves=curves,
        examples=shown,
        attention=[
            ClipAttention(f"distill+tokens, clip {i}", frames(i + 20), maps(seed=i), [f"layer {n}" for n in range(4)])
            for i in range(attention)
        ],
        settings={"seeds": list(range(seeds)), "llava": "next", "torch": "2.13.0", "steps": 400, "rate": 6e-3},
        commands=["bash scripts/demo.sh --seeds 3", "python -m llava_ego2exo.train --ego2exo True \\\n    --lora_r 16"],
        seconds={"base": 71.3, "distill": 48.0, "everything": 412.6},
    )  # fmt: skip
