"""Material for distillation tests: samples with an ego clip, answers of unequal length, what a step's gradients are."""

from __future__ import annotations

import contextlib
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

ANSWERS = (
    "A red block moves left.", "A green block.", "A blue block moves up, what moves left? A yellow block moves.", "Up.",
)  # fmt: skip
# One thread's order of sums, no dropout, a tower in full precision: runs differ by rounding alone.
PLAIN = {"lora_dropout": 0.0, "vision_tower_dtype": "float32"}


def distilling_samples(world, count: int = 4) -> list[dict]:
    """Each clip of the world is an exo view, the next one stands for its ego view."""
    videos, samples = sorted(path.name for path in world.videos.glob("*.mp4")), []
    for index in range(count):
        question = "What moves, and where to?"
        placed = f"{question}\n<image>" if index % 2 else f"<image>\n{question}"
        turns = [{"from": "human", "value": placed}, {"from": "gpt", "value": ANSWERS[index % 4]}]
        exo, ego = videos[index % len(videos)], videos[(index + 1) % len(videos)]
        samples.append({"id": str(index), "video": exo, "ego_video": ego, "conversations": turns})
    return samples


def write_json(file: Path, samples: list) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(samples))
    return file


def history(trainer, name: str) -> list[float]:
    """The values that a run has logged under a name."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def key_of(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:32]


def write_logits(folder: Path, key: str, tokens, ids, logits) -> Path:
    """One answer's file, as `teach --top-k` writes it, but in float32."""
    file = folder / "top_k" / key[:2] / f"{key}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, tokens=np.asarray(tokens, np.int32), ids=np.asarray(ids, np.int32), logits=np.asarray(logits))
    return file


@contextlib.contextmanager
def recorded_gradients(monkeypatch):
    """All gradients of each optimizer step, right before they are clipped."""
    from accelerate import Accelerator

    steps: list[list[torch.Tensor]] = []
    original = Accelerator.clip_grad_norm_

    def clip(self, parameters, *args, **kwargs):
        parameters = list(parameters)
        steps.append([p.grad.clone() for p in parameters if p.grad is not None])
        return original(self, parameters, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "clip_grad_norm_", clip)
        yield steps


def assert_same_gradients(found: list[torch.Tensor], expected: list[torch.Tensor], rtol: float = 1e-5) -> None:
    assert len(found) == len(expected) > 0
    assert max(value.abs().max() for value in expected) > 1e-3
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=rtol * max(float(other.abs().max()), 1e-3))
