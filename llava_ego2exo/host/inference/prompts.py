"""The prompt in a checkpoint's own conversation template, and the tokens that end its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import Ego2ExoError
from ..checkpoint.classes import class_key

# Classes that LLaVA trains with one template alone. Llama and Mistral models come with many.
CERTAIN = {"llava_qwen": "qwen_1_5", "llava_gemma": "gemma_instruct"}


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


def choose_template(config: Mapping[str, Any], path: str, given: str | None) -> str:
    """The template given, or the one that the checkpoint's class leaves no doubt about.

    Args:
        config: of the checkpoint.
        path: its folder or hub name, for messages.
        given: what the user chose, if anything.

    Raises:
        Ego2ExoError: none was given and several fit; or it is unknown, or cannot write a prompt here.
    """
    from llava.conversation import conv_templates

    key = class_key(config, path)
    template = given or CERTAIN.get(key or "")
    if key is None:
        raise Ego2ExoError(
            f"{path} is a {config.get('model_type', '?')} model", "a LLaVA checkpoint", "give one as --model"
        )
    if template is None or (given is None and template not in conv_templates):
        raise Ego2ExoError(
            f"{path} comes without chat template: its config does not name the one it was trained with",
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
