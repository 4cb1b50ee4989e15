"""Ask a loaded LLaVA model about a video: the prompt of its conversation template, greedy decoding."""

from __future__ import annotations

from typing import Any

from ..host.inference.prompts import generate
from ..video import read_video


def ask(loaded: tuple[Any, Any, Any, Any], video: str, question: str, template: str, **options: Any) -> str:
    """The model's answer.

    Args:
        loaded: what `load_pretrained_model` returned.
        video: path of the file.
        question: without placeholder.
        template: name of LLaVA's conversation template ("qwen_1_5", "v1").
        options: of :func:`llava_ego2exo.video.read_video`, and `max_new_tokens`.
    """
    new_tokens = options.pop("max_new_tokens", 64)
    clip = read_video(video, **options)
    tokenizer, model, image_processor, _ = loaded
    frames = image_processor.preprocess(list(clip.frames), return_tensors="pt")["pixel_values"]
    return generate(model, tokenizer, frames, question, template, new_tokens)
