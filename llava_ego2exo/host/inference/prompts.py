"""One question to a LLaVA model, by LLaVA's own template, tokenizer helper and `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ... import register
from ...errors import Ego2ExoError
from ..checkpoint.classes import class_key
from ..checkpoint.config import read_config
from .settings import Settings


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


# Which of LLaVA's conversation templates a checkpoint is asked by, and with which tokens its answers end.

# Classes that LLaVA trains with one template alone. Llama and Mistral models come with many.
CERTAIN = {"llava_qwen": "qwen_1_5", "llava_gemma": "gemma_instruct"}


def choose_template(path: str, given: str | None) -> str:
    """The template given, or the one that the checkpoint's class leaves no doubt about.

    Args:
        path: folder or hub name of the checkpoint.
        given: what the user chose, if anything.

    Raises:
        Ego2ExoError: none was given and several fit; or it is unknown, or cannot write a prompt here.
    """
    from llava.conversation import conv_templates

    config = read_config(path)
    key = class_key(config, path)
    template = given or CERTAIN.get(key or "")
    if key is None:
        raise Ego2ExoError(
            f"{path} is a {config.get('model_type', '?')} model", "a LLaVA checkpoint", "give one as --model"
        )
    if template is None or (given is None and template not in conv_templates):
        raise Ego2ExoError(
            f"{path} comes without chat template: its config does not say with which it was trained",
            ", ".join(conv_templates),
            "give --template the one it was trained with (`--version` of its training)",
        )
    try:
        prompt("?", template)
    except Ego2ExoError:
        raise
    except Exception as error:
        # The Llama 3 template writes with a tokenizer from the hub, which not everybody may read.
        raise Ego2ExoError(
            f"conversation template {template!r} cannot write a prompt: {error}", "a usable one"
        ) from error
    return template


def stop_ids(model: Any, tokenizer: Any, template: str) -> list[int]:
    """The tokens that end an answer: the model's own, the tokenizer's, and the template's separators."""
    from llava.conversation import conv_templates

    own = getattr(model.generation_config, "eos_token_id", None)
    ids = {*(own if isinstance(own, (list, tuple)) else [own]), tokenizer.eos_token_id}
    conversation = conv_templates[template]
    added = tokenizer.get_added_vocab()
    for separator in (conversation.sep, conversation.sep2):
        # A separator of several ordinary tokens can stand inside an answer too.
        ids.add(added.get((separator or "").strip()))
    ids |= set(getattr(conversation, "stop_token_ids", None) or ())
    return sorted(ids - {None})


# How many positions a model has, and whether answers leave any for clip and query.


def positions(config: Mapping[str, Any]) -> int | None:
    """Positions of a model by its config.json; None where that does not say."""
    context = config.get("max_position_embeddings")
    factor = (config.get("rope_scaling") or {}).get("factor") or 1
    return int(context * factor) if context else None


def require_room(config: Mapping[str, Any], max_new_tokens: int) -> None:
    """Refuse answers so long that no position is left for what is asked.

    Args:
        config: the model's config.json.
        max_new_tokens: most tokens of an answer.

    Raises:
        Ego2ExoError: with the number of positions.
    """
    context = positions(config)
    if context is not None and max_new_tokens >= context:
        raise Ego2ExoError(
            f"--max-new-tokens {max_new_tokens}, and the model has {context} positions for clip, query and answer",
            "what leaves room for the clip and the query",
            "give a smaller --max-new-tokens",
        )


# How one checkpoint will be asked, and whether it can be: everything that is known before its first weight loads.


def how_asked(
    path: str, base: str | None, template: str | None, dtype: str | None, bits: int, force_sample: bool | None,
    time_instruction: bool | None, max_new_tokens: int = 256, **others: Any,
) -> Settings:  # fmt: skip
    """Settings for one checkpoint; what is None is taken from it.

    Args:
        path: folder or hub name of the checkpoint.
        base: what it was trained from, where it holds no whole model.
        template: LLaVA's conversation template; None: that of its class where only one fits.
        dtype: of weights that are not quantized; None: bfloat16 on a GPU, else float32.
        bits: 4, 8 or 16.
        force_sample: always take the most frames; None: as its config says.
        time_instruction: tell it the times of the frames; None: as its config says.
        max_new_tokens: most tokens of an answer.
        others: further fields of `Settings`.

    Raises:
        Ego2ExoError: no llava, no config, the wrong base, no template, no room for clips, a package is missing.
    """
    import torch

    from ..checkpoint.config import read_config
    from ..checkpoint.files import describe
    from ..hooks.flavour import package_folder
    from ..loading.loader import check_base

    package_folder()
    config = read_config(path)
    check_base(describe(path), base, config)
    require_room(config, max_new_tokens)
    _need("decord", "av", *(("bitsandbytes",) if bits < 16 else ()))
    return Settings(
        template=choose_template(path, template),
        dtype=dtype or ("bfloat16" if torch.cuda.is_available() else "float32"),
        bits=bits,
        force_sample=_own(force_sample, config, "force_sample"),
        time_instruction=_own(time_instruction, config, "add_time_instruction"),
        max_new_tokens=max_new_tokens,
        **others,
    )


def _own(given: bool | None, config: dict[str, Any], key: str) -> bool:
    return bool(config.get(key, False)) if given is None else given


def _need(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise Ego2ExoError(f"{', '.join(missing)} is not installed", "", f"pip install {' '.join(missing)}")
