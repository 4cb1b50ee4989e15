"""Tiny models in the formats of the real ones, made and never downloaded."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_TEXT = [
    "What moves, and where to? A red block moves left. A green block moves right. A blue block moves up.",
    "A yellow block moves down. system user assistant You are a helpful assistant. USER: ASSISTANT:",
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
]


def tiny_tokenizer(folder: Path, kind: str, texts: Sequence[str] = (), phrases: Sequence[str] = ()) -> Path:
    """A byte-level tokenizer, "qwen" (chat tokens) or "llama" (BOS, EOS, UNK).

    Words of `texts` are single tokens, and so is each of `phrases` as a whole.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
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
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
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
    phrases: Sequence[str] = (), language: dict[str, Any] | None = None, **settings: Any,
) -> Path:  # fmt: skip
    """A whole LLaVA checkpoint with random weights, its tokenizer inside.

    Args:
        folder: where to; its name must hold `kind`, by which LLaVA-NeXT's train script chooses the class.
        kind: "llama" or "qwen".
        seed: of the weights.
        tower: folder of a vision tower; None makes one beside `folder`.
        texts, phrases: for the tokenizer, see :func:`tiny_tokenizer`.
        language: arguments of the language model's config that differ from :func:`language_sizes`.
        settings: keys of LLaVA's config.
    """
    from ..host.model.pretraining import assemble

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder, "qwen" if kind == "qwen" else "llama", texts, phrases)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    if tower is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tower = tiny_tower(folder.absolute().parent / "vision_tower")
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    begin, end, pad = ("<|endoftext|>", "<|im_end|>", "<|endoftext|>") if kind == "qwen" else ("<s>", "</s>", "<unk>")
    tokens = {"bos_token_id": ids[begin], "eos_token_id": ids[end], "pad_token_id": ids[pad]}
    pooling = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "bilinear", "mm_newline_position": "no_token"}
    count = 1 + max(*ids.values(), *tokenizer["model"]["vocab"].values())
    sizes = language_sizes(count, **{**tokens, **(language or {})})
    return assemble(f"llava_{kind}", folder, sizes, Path(os.path.abspath(tower)), seed, **{**pooling, **settings})


def load_quietly(path: Path, base: Path | None = None) -> tuple[Any, Any, Any, Any]:
    """By LLaVA's own loader, without what it prints and warns of; errors come through."""
    from ..host.inference.answerer import load

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load(str(path), base and str(base), torch_dtype="float32")
    loaded[1].eval()
    return loaded
