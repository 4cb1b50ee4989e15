"""The demo's base: a tiny LLaVA that understands ego clips, and of exo clips what is plain there.

It is the teacher as it stands, and what every student of every seed starts from. It is part of the package; one of
other code or sizes is trained and kept in a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import cameras
from .models import load_quietly, tiny_llava
from .variants import DemoPlan
from .world import Scene, ego_answers, scene_answers, scenes, turns, vocabulary

TEMPLATES = {"llama": "v1", "qwen": "qwen_1_5"}
BASE_SEED = 1
SIZES = {  # smaller than those of `language_sizes`
    "num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4,
    "num_key_value_heads": 4, "initializer_range": 0.08, "max_position_embeddings": 1024, "attention_bias": True,
}  # fmt: skip
# All visual tokens, 6 x 6 a frame, on both hosts: LLaVA-NeXT would pool a video's by two, llava-torch not at all.
# Students take this over from the base.
POOLING = {"ego2exo_pool": "6x6", "mm_newline_position": "no_token"}
# What the base has seen, as real ones have: clips of one to four frames, with all their visual tokens or pooled by two.
LOOKS = ((0,), (0, 3), (0, 3), (0, 1, 3), (0, 1, 2, 3))
POOLS = ("6x6", "3x3")
# One token each: what stands in front of every question would otherwise be most of a row.
PHRASES = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.",
    "You are a helpful assistant.",
)
SHIPPED = Path(__file__).parent / "bases"
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Base:
    """A base model with its vision tower."""

    model: Path
    tower: Path
    kind: str

    @property
    def template(self) -> str:
        return TEMPLATES[self.kind]


def cache_folder() -> Path:
    """Where bases are kept: below `XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava_ego2exo" / "demo"


def base_key(plan: DemoPlan, kind: str) -> str:
    """A name for everything that shapes a base: sizes, and the code that draws and trains."""
    code = b"".join(
        Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("world", "cameras", "encoder", "base")
    )
    sizes = [kind, plan.encoder_scenes, plan.encoder_steps, plan.base_scenes, plan.base_steps]
    return f"{kind}-{hashlib.sha256(json.dumps(sizes).encode() + code).hexdigest()[:12]}"


def host_kind() -> str:
    """The language model of the demo on the llava that is installed."""
    from ..host.hooks.flavour import NEXT, detect

    return "qwen" if detect() == NEXT else "llama"


def get_base(plan: DemoPlan, folder: Path, say: Callable[[str], None], rebuild: bool = False) -> Base:
    """The base: from the cache `folder`, where it is put from the package or by training it.

    With `rebuild` it is trained whatever is there.
    """
    kind = host_kind()
    key = base_key(plan, kind)
    place, shipped = folder / key, SHIPPED / f"{kind}.safetensors"
    base = Base(place / f"base_{kind}", place / "vision_tower", kind)
    if (place / "done").is_file() and not rebuild:
        say(f"base: {base.model}")
        return base
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if not rebuild and packed_key(shipped) == key:
        unpack(shipped, base)
        say(f"base: the package's, now {base.model}")
    else:
        pack(make_base(plan, base, say), base, key, place / shipped.name)
    (place / "done").touch()
    return base


def make_base(plan: DemoPlan, base: Base, say: Callable[[str], None]) -> list[float]:
    """Train tower and model from nothing; returns the losses of both."""
    from .encoder import pretrain

    curve: list[float] = []

    def report(name: str) -> Report:
        def line(step: int, loss: float) -> None:
            curve.append(loss)
            if step % 100 == 0:
                say(f"{name}: step {step}, loss {loss:.3f}")

        return line

    training = list(scenes(max(plan.encoder_scenes, plan.base_scenes), BASE_SEED))
    say(f"encoder: pretraining on {4 * plan.encoder_scenes} frames, {plan.encoder_steps} steps")
    pretrain(training[: plan.encoder_scenes], base.tower, 0, plan.encoder_steps, report("encoder"))
    tiny_llava(base.model, base.kind, 0, base.tower, vocabulary(), PHRASES, SIZES, **POOLING)
    say(f"base: training on {plan.base_scenes} ego clips and half as many other exo clips, {plan.base_steps} steps")
    material = {"ego": training[: plan.base_scenes], "exo": training[: plan.base_scenes // 2]}
    train_base(base.model, material, base.template, 0, plan.base_steps, report("base"))
    return curve


def train_base(
    folder: Path, material: dict[str, Sequence[Scene]], template: str, seed: int, steps: int, report: Report,
    batch: int = 32,
) -> None:  # fmt: skip
    """Train the checkpoint in `folder` in place on conversations about the scenes of each view of `material`."""
    from ..host.hooks.install import substituted
    from ..host.model.pretraining import loss, tower_features, training_rows
    from .encoder import fit

    tokenizer, model, processor, _ = load_quietly(folder)
    rng = np.random.default_rng(seed)
    asked, owners, frames = [], [], []  # question and answer, the clip that each is about, and the clips
    for view, shown in material.items():
        for scene in shown:
            look = list(LOOKS[rng.integers(len(LOOKS))])
            pairs = ego_answers(scene, len(look)) if view == "ego" else scene_answers(scene)
            asked += pairs
            owners += [len(frames)] * len(pairs)
            frames.append(cameras.draw(scene, view)[look])
    pixels = processor.preprocess(list(np.concatenate(frames)), return_tensors="pt")["pixel_values"]
    features = tower_features(model, pixels).split([len(clip) for clip in frames])
    # The clip stands before or behind the question, at random, as in the students' training. A question with its answer
    # is one row a place, whichever clip it is about.
    placed = list(zip(asked, rng.integers(0, 2, len(asked)).astype(bool).tolist(), strict=True))
    different = list(dict.fromkeys(placed))
    made = training_rows(tokenizer, [turns(pair, before) for pair, before in different], template)
    rows = dict(zip(different, made, strict=True))
    parameters = [p for name, p in model.named_parameters() if "vision_tower" not in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
    model.train()
    generator = torch.Generator().manual_seed(seed)

    def step() -> Tensor:
        chosen = torch.randint(len(placed), (batch,), generator=generator).tolist()
        pool = POOLS[int(torch.randint(len(POOLS), (), generator=generator))]
        with substituted(model.config, ego2exo_pool=pool):
            return loss(model, [rows[placed[i]] for i in chosen], [features[owners[i]] for i in chosen])

    fit(parameters, step, steps, 3e-3, 0.1, report, weight_decay=0.0, betas=(0.9, 0.98))
    weights = {name: tensor for name, tensor in model.state_dict().items() if "vision_tower" not in name}
    model.save_pretrained(folder, state_dict=weights)


def pack(curve: Sequence[float], base: Base, key: str, file: Path) -> None:
    """Write tower, model and the losses of their training to one file in half precision, as the package ships it."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Tensor] = {}
    for part, folder in _parts(base).items():
        for name, tensor in load_file(folder / "model.safetensors").items():
            tensors[f"{part}:{name}"] = tensor.half() if tensor.is_floating_point() else tensor
    save_file(tensors, file, {"key": key, "curve": json.dumps([round(loss, 4) for loss in curve])})
    unpack(file, base)  # so that a base is the same on the machine that made it


def unpack(file: Path, base: Base) -> None:
    """Write the checkpoints that :func:`pack` was given."""
    from safetensors.torch import load_file, save_file

    from .encoder import new_tower, processor

    new_tower().save_pretrained(base.tower)
    processor().save_pretrained(base.tower)
    tiny_llava(base.model, base.kind, 0, base.tower, vocabulary(), PHRASES, SIZES, **POOLING)
    tensors = load_file(file)
    for part, folder in _parts(base).items():
        names = load_file(folder / "model.safetensors")
        own = {name: tensors[f"{part}:{name}"].to(tensor.dtype) for name, tensor in names.items()}
        save_file(own, folder / "model.safetensors", {"format": "pt"})


def _parts(base: Base) -> dict[str, Path]:
    """Folders of the checkpoints in a packed base, by what its file calls them."""
    return {"vision_tower": base.tower, "model": base.model}


def read_curve(file: Path) -> list[float]:
    """The losses of the training that made a packed base."""
    return json.loads(_metadata(file)["curve"])  # type: ignore[no-any-return]


def packed_key(file: Path) -> str | None:
    """The :func:`base_key` of a packed base; None where there is no file."""
    return _metadata(file)["key"] if file.is_file() else None


def _metadata(file: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(file, "pt") as packed:
        return packed.metadata()  # type: ignore[no-any-return]
