"""Which of LLaVA's conversation templates a checkpoint is asked by, and with which tokens its answers end."""

from __future__ import annotations

from typing import Any

from ..errors import Ego2ExoError
from .asking import prompt
from .classes import class_key
from .config_file import read_config

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
