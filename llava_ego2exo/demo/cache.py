"""The demo's base: made once for each size, seed and llava, and kept for the next run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from .variants import Plan
from .world import scenes, vocabulary

TEMPLATES = {"llama": "v1", "qwen": "qwen_1_5"}
BASE_SEED, PAIRS_SEED, TESTS_SEED = 1, 2, 3
_SIZES = {
    "num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4,
    "num_key_value_heads": 4, "initializer_range": 0.08, "max_position_embeddings": 1024,
}  # fmt: skip
_DONE = "done"
# LLaVA-NeXT pools a video's tokens by two whatever its config says, llava-torch never: base and students say the same.
POOLING = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "average", "mm_newline_position": "no_token"}


@dataclass(frozen=True)
class Base:
    """An untouched base model with its vision tower."""

    model: Path
    tower: Path
    kind: str

    @property
    def template(self) -> str:
        return TEMPLATES[self.kind]


def default_folder() -> Path:
    """Where bases are kept: below `XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava_ego2exo" / "demo"


def get_base(plan: Plan, seed: int, folder: Path, say: Callable[[str], None]) -> Base:
    """The base from an earlier run, or a new one.

    Args:
        plan: its sizes.
        seed: of its weights and clips.
        folder: of the cache.
        say: prints one line.
    """
    from ..host.hooks.flavour import NEXT, detect

    kind = "qwen" if detect() == NEXT else "llama"
    place = folder / f"{kind}-{_key(plan, kind)}-seed{seed}"
    base = Base(place / f"base_{kind}", place / "vision_tower", kind)
    if (place / _DONE).is_file():
        say(f"base: an earlier run's, {base.model}")
        return base
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    _make(plan, seed, base, say)
    (place / _DONE).touch()
    return base


def _key(plan: Plan, kind: str) -> str:
    """Of everything that shapes a base: sizes, version, and the code that draws and trains."""
    code = b"".join(
        (Path(__file__).parent / f"{name}.py").read_bytes() for name in ("world", "cameras", "encoder", "models")
    )
    sizes = [plan.encoder_scenes, plan.encoder_steps, plan.base_scenes, plan.base_steps, _SIZES]
    return hashlib.sha256(json.dumps([__version__, kind, sizes]).encode() + code).hexdigest()[:12]


def _make(plan: Plan, seed: int, base: Base, say: Callable[[str], None]) -> None:
    from .encoder import pretrain
    from .models import tiny_llava, train_base

    training = list(scenes(max(plan.encoder_scenes, plan.base_scenes), 100 * seed + BASE_SEED))
    say(f"encoder: pretraining on {4 * plan.encoder_scenes} frames, {plan.encoder_steps} steps")
    pretrain(training[: plan.encoder_scenes], base.tower, seed, plan.encoder_steps,
             report=lambda step, loss: say(f"  encoder: step {step}, loss {loss:.3f}"))  # fmt: skip
    tiny_llava(base.model, base.kind, seed, base.tower, vocabulary(), _SIZES, **POOLING)
    say(f"base: training on {plan.base_scenes} ego clips and half as many other exo clips, {plan.base_steps} steps")
    material = {"ego": training[: plan.base_scenes], "exo": training[: plan.base_scenes // 2]}
    train_base(base.model, material, base.template, seed, plan.base_steps,
               report=lambda step, loss: say(f"  base: step {step}, loss {loss:.3f}"))  # fmt: skip
