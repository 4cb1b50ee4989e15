"""Tiny models in the formats of the real ones, made and never downloaded; and the demo's base, trained and cached.

The base is a tiny LLaVA that understands ego clips, and of exo clips what is plain there. It is the teacher as it
stands, and what every student starts from.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from . import cameras
from .variants import DemoPlan
from .world import Scene, ego_answers, scene_answers, scenes, vocabulary

FRAMES = 2  # of a clip that a model sees: the first and the last of those drawn, as LLaVA samples --frames_upbound 2
TEMPLATES = {"llama": "v1", "qwen": "qwen_1_5"}
BASE_SEED, PAIRS_SEED, TESTS_SEED = 1, 2, 3
SIZES = {  # of the base; those of `language_sizes` are smaller
    "num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4,
    "num_key_value_heads": 4, "initializer_range": 0.08, "max_position_embeddings": 1024,
}  # fmt: skip
# LLaVA-NeXT pools a video's tokens by two whatever its config says, llava-torch never: base and students say the same.
POOLING = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "average", "mm_newline_position": "no_token"}
_TEXT = [
    "What moves, and where to? A red block moves left. A green block moves right. A blue block moves up.",
    "A yellow block moves down. system user assistant You are a helpful assistant. USER: ASSISTANT:",
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
]


def tiny_tokenizer(folder: Path, kind: str, texts: Sequence[str] = ()) -> Path:
    """A byte-level tokenizer, "qwen" (chat tokens) or "llama" (BOS, EOS, UNK); words of `texts` are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    qwen = kind == "qwen"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if qwen else ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token=None if qwen else "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512 + 2 * len(texts), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*_TEXT, *texts], trainer)
    if qwen:
        roles = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": special[1:]}
    else:
        roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=2048, **roles).save_pretrained(folder)
    return folder


def tiny_tower(folder: Path, width: int = 32, layers: int = 4, heads: int = 4, size: int = 28) -> Path:
    """A CLIP vision tower with its image processor; patches of 7 by 7 pixels."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=heads,
        image_size=size, patch_size=7, projection_dim=width,
    )  # fmt: skip
    CLIPVisionModel(config).save_pretrained(folder)
    crop = {"height": size, "width": size}
    CLIPImageProcessor(size={"shortest_edge": size}, crop_size=crop).save_pretrained(folder)
    return folder


def language_sizes(vocabulary: int, **changes: Any) -> dict[str, Any]:
    """Arguments of a tiny language model's config."""
    sizes = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 2048, "initializer_range": 0.2,
    }  # fmt: skip
    return {**sizes, **changes}


def tiny_llava(
    folder: str | Path, kind: str = "llama", seed: int = 0, tower: str | Path | None = None, texts: Sequence[str] = (),
    language: dict[str, Any] | None = None, **settings: Any,
) -> Path:  # fmt: skip
    """A whole LLaVA checkpoint with random weights, its tokenizer inside.

    Args:
        folder: where to; its name must hold `kind`, by which LLaVA-NeXT's train script chooses the class.
        kind: "llama" or "qwen".
        seed: of the weights.
        tower: folder of a vision tower; None makes one beside `folder`.
        texts: for the tokenizer, see :func:`tiny_tokenizer`.
        language: arguments of the language model's config that differ from :func:`language_sizes`.
        settings: keys of LLaVA's config.
    """
    from ..host.model.pretraining import assemble

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder, "qwen" if kind == "qwen" else "llama", texts)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    if tower is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tower = tiny_tower(folder.absolute().parent / "vision_tower")
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    begin, end, pad = ("<|endoftext|>", "<|im_end|>", "<|endoftext|>") if kind == "qwen" else ("<s>", "</s>", "<unk>")
    tokens = {"bos_token_id": ids[begin], "eos_token_id": ids[end], "pad_token_id": ids[pad]}
    pooling = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "bilinear", "mm_newline_position": "no_token"}
    sizes = language_sizes(len(tokenizer["model"]["vocab"]), **{**tokens, **(language or {})})
    return assemble(f"llava_{kind}", folder, sizes, Path(os.path.abspath(tower)), seed, **{**pooling, **settings})


def load_quietly(path: Path, base: Path | None = None) -> tuple[Any, Any, Any, Any]:
    """By LLaVA's own loader, without what it prints and warns of; errors come through."""
    from ..host.inference.answerer import load

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load(str(path), base and str(base), torch_dtype="float32")
    loaded[1].eval()
    return loaded


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


def get_base(plan: DemoPlan, seed: int, folder: Path, say: Callable[[str], None]) -> Base:
    """The base from an earlier run in the cache `folder`, or a new one."""
    from ..host.hooks.flavour import NEXT, detect

    kind = "qwen" if detect() == NEXT else "llama"
    # Everything that shapes a base: sizes, version, and the code that draws and trains.
    names = ("world", "cameras", "encoder", "models")
    code = b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in names)
    sizes = [plan.encoder_scenes, plan.encoder_steps, plan.base_scenes, plan.base_steps]
    key = hashlib.sha256(json.dumps([__version__, kind, sizes]).encode() + code).hexdigest()[:12]
    place = folder / f"{kind}-{key}-seed{seed}"
    base = Base(place / f"base_{kind}", place / "vision_tower", kind)
    if (place / "done").is_file():
        say(f"base: an earlier run's, {base.model}")
        return base
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    _make_base(plan, seed, base, say)
    (place / "done").touch()
    return base


def _make_base(plan: DemoPlan, seed: int, base: Base, say: Callable[[str], None]) -> None:
    from .encoder import pretrain

    def report(name: str) -> Callable[[int, float], None]:
        return lambda step, loss: say(f"{name}: step {step}, loss {loss:.3f}")

    training = list(scenes(max(plan.encoder_scenes, plan.base_scenes), 100 * seed + BASE_SEED))
    say(f"encoder: pretraining on {4 * plan.encoder_scenes} frames, {plan.encoder_steps} steps")
    pretrain(training[: plan.encoder_scenes], base.tower, seed, plan.encoder_steps, report("encoder"))
    tiny_llava(base.model, base.kind, seed, base.tower, vocabulary(), SIZES, **POOLING)
    say(f"base: training on {plan.base_scenes} ego clips and half as many other exo clips, {plan.base_steps} steps")
    material = {"ego": training[: plan.base_scenes], "exo": training[: plan.base_scenes // 2]}
    train_base(base.model, material, base.template, seed, plan.base_steps, report("base"))


def turns(pair: tuple[str, str], before: bool = True) -> list[dict[str, str]]:
    """A question and its answer as a conversation of LLaVA's JSON, the clip before the question or behind it."""
    question, answer = pair
    asked = f"<image>\n{question}" if before else f"{question}\n<image>"
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]


def train_base(
    folder: Path, material: dict[str, Sequence[Scene]], template: str, seed: int, steps: int,
    report: Callable[[int, float], None], batch: int = 64,
) -> None:  # fmt: skip
    """Train the checkpoint in `folder` in place on conversations about the scenes of each view of `material`."""
    from ..host.model.pretraining import loss, tower_features, training_rows
    from .encoder import fit

    tokenizer, model, processor, _ = load_quietly(folder)
    answers, seen = {"ego": ego_answers, "exo": scene_answers}, (0, cameras.FRAMES - 1)
    asked, owners, frames = [], [], []  # question and answer, the clip that each is about, and the clips
    for view, shown in material.items():
        for scene in shown:
            pairs = answers[view](scene)
            asked += pairs
            owners += [len(frames)] * len(pairs)
            frames.append(cameras.draw(scene, view)[list(seen)])
    pixels = processor.preprocess(list(np.concatenate(frames)), return_tensors="pt")["pixel_values"]
    features = tower_features(model, pixels).split(FRAMES)
    # The clip stands before or behind the question, at random, as in the students' training. A question with its answer
    # is one row a place, whichever clip it is about.
    placed = list(zip(asked, np.random.default_rng(seed).integers(0, 2, len(asked)).astype(bool).tolist(), strict=True))
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
        return loss(model, [rows[placed[i]] for i in chosen], [features[owners[i]] for i in chosen])

    fit(parameters, step, steps, 3e-3, 0.1, report, weight_decay=0.0, betas=(0.9, 0.98))
    weights = {name: tensor for name, tensor in model.state_dict().items() if "vision_tower" not in name}
    model.save_pretrained(folder, state_dict=weights)
