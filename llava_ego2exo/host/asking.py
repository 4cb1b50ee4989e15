"""One question to a LLaVA model, by LLaVA's own template, tokenizer helper and `generate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import register
from ..errors import Ego2ExoError


def prompt(question: str, template: str) -> str:
    """The question in one of LLaVA's conversation templates.

    Raises:
        Ego2ExoError: LLaVA has no such template.
    """
    from llava.conversation import conv_templates

    if template not in conv_templates:
        raise Ego2ExoError(f"conversation template {template!r}", ", ".join(conv_templates), "name one of these")
    conversation = conv_templates[template].copy()
    if hasattr(conversation, "tokenizer"):
        # LLaVA-NeXT's copy forgets it, and its Llama 3 template writes with it.
        conversation.tokenizer = conv_templates[template].tokenizer
    conversation.append_message(conversation.roles[0], f"<image>\n{question}")
    conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt()


def generate(model: Any, tokenizer: Any, frames: Tensor, question: str, template: str, new_tokens: int = 64) -> str:
    """Greedy answer to one question about one video.

    Args:
        model: a LLaVA model.
        tokenizer: its tokenizer.
        frames: (T, 3, H, W), preprocessed.
        question: without placeholder.
        template: name of a conversation template.
        new_tokens: most tokens of the answer.
    """
    from llava.mm_utils import tokenizer_image_token

    ids = tokenizer_image_token(prompt(question, template), tokenizer, return_tensors="pt")[None].to(model.device)
    images = [frames.to(model.device, model.dtype)]
    with torch.inference_mode():
        out = model.generate(
            ids, images=images, modalities=["video"], do_sample=False, max_new_tokens=new_tokens, use_cache=True
        )
    return tokenizer.batch_decode(out, skip_special_tokens=True)[0].strip()


def load(path: str, base: str | None = None, **options: Any) -> tuple[Any, Any, Any, int]:
    """Tokenizer, model, image processor and context length, by LLaVA's own loader with the plugin in it.

    Args:
        path: folder of a checkpoint.
        base: the checkpoint it was trained from, where it holds no whole model.
        options: further arguments of LLaVA's `load_pretrained_model`.
    """
    register()
    from llava.model.builder import load_pretrained_model

    return load_pretrained_model(path, base, "llava_ego2exo", **options)
