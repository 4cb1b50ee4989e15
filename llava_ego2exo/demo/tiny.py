"""Tiny models in the formats of the real ones: tokenizer, CLIP tower, LLaVA checkpoint. Made, never downloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS = 64, 2, 4
_TEXT = [
    "What moves, and where to? A red block moves left. A green block moves right. A blue block moves up.",
    "A yellow block moves down. system user assistant You are a helpful assistant. USER: ASSISTANT:",
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
]


def tiny_tokenizer(folder: Path, kind: str, texts: Sequence[str] = ()) -> Path:
    """A byte-level tokenizer that can write any text.

    Args:
        folder: where to.
        kind: "qwen" (chat tokens, no BOS) or "llama" (BOS, EOS, UNK).
        texts: further ones whose words are to be single tokens.
    """
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
    sizes: dict[str, Any] = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    CLIPImageProcessor(**sizes).save_pretrained(folder)
    return folder


def language_sizes(vocabulary: int, **changes: Any) -> dict[str, Any]:
    """Arguments of a tiny language model's config."""
    sizes = {
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2, "vocab_size": vocabulary, "max_position_embeddings": 2048,
        "initializer_range": 0.2,
    }  # fmt: skip
    return {**sizes, **changes}


def tiny_llava(
    folder: str | Path, kind: str = "llama", seed: int = 0, tower: str | Path | None = None, texts: Sequence[str] = (),
    language: dict[str, Any] | None = None, **settings: Any,
) -> Path:  # fmt: skip
    """A whole LLaVA checkpoint: tower beside it, tokenizer inside.

    Args:
        folder: where to; its name must hold `kind`, by which LLaVA-NeXT's train script chooses the class.
        kind: "llama" or "qwen".
        seed: of the random weights.
        tower: of an existing vision tower; None makes one with random weights beside `folder`.
        texts: for the tokenizer, see :func:`tiny_tokenizer`.
        language: arguments of the language model's config that differ from :func:`language_sizes`.
        settings: keys of LLaVA's config.
    """
    import torch

    from ..host.assemble import assemble

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder, "qwen" if kind == "qwen" else "llama", texts)
    added = json.loads((folder / "tokenizer.json").read_text())
    if tower is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tower = tiny_tower(folder.absolute().parent / "vision_tower")
    ids = {token["content"]: token["id"] for token in added["added_tokens"]}
    begin, end, pad = ("<|endoftext|>", "<|im_end|>", "<|endoftext|>") if kind == "qwen" else ("<s>", "</s>", "<unk>")
    tokens = {"bos_token_id": ids[begin], "eos_token_id": ids[end], "pad_token_id": ids[pad]}
    vocabulary = len(added["model"]["vocab"])
    pooling = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "bilinear", "mm_newline_position": "no_token"}
    sizes = language_sizes(vocabulary, **{**tokens, **(language or {})})
    return assemble(f"llava_{kind}", folder, sizes, Path(os.path.abspath(tower)), seed, **{**pooling, **settings})
