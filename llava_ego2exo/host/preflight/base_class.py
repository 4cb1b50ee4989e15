"""The class and tokenizer that LLaVA's train script would choose for a base, by letters in its path."""

from __future__ import annotations

from pathlib import Path

from ...errors import Ego2ExoError
from ..checkpoint.classes import CLASSES, class_key
from ..hooks.flavour import NEXT, detect
from ..settings.command_line import Settings

# In the order in which the script looks for them; it has none for Gemma's tokenizer.
MISTRAL = ("mistral", "mixtral", "zephyr")
QWEN = ("qwen",)
LLAMA = ("wizardlm-2", "vicuna", "llama", "yi")
_LETTERS = {
    "llava_llama": "llama", "llava_qwen": "qwen", "llava_qwen_moe": "qwen", "llava_mistral": "mistral",
    "llava_mixtral": "mixtral", "llava_gemma": "gemma-qwen",
}  # fmt: skip
# Language models that LLaVA gives eyes to: model_type -> the class's key.
_PLAIN = {
    "llama": "llava_llama", "qwen2": "llava_qwen", "qwen2_moe": "llava_qwen_moe", "mistral": "llava_mistral",
    "mixtral": "llava_mixtral", "gemma": "llava_gemma",
}  # fmt: skip


def check_class(settings: Settings) -> None:
    """Refuse a base whose class or tokenizer LLaVA's train script would not find.

    Raises:
        Ego2ExoError: the base is no LLaVA model, `--model_class_name` is given, or the path lacks the letters.
    """
    path, kind = str(settings["model_name_or_path"]), class_of(settings)
    name = settings["model_class_name"]
    if name is not None:
        raise Ego2ExoError(
            f"--model_class_name {name} with --ego2exo True: it names a class of transformers, without a vision tower",
            "the class that the base's config.json says",
            "leave it out",
        )
    model_type = str(settings.base.get("model_type", "?"))
    if kind is None and not model_type.startswith("llava"):
        raise Ego2ExoError(
            f"--model_name_or_path {path} is a {model_type!r} model",
            f"a LLaVA checkpoint ({', '.join(CLASSES)}) or a language model that LLaVA trains ({', '.join(_PLAIN)})",
            "pass the checkpoint to start from",
        )
    if detect() != NEXT or any(letters in path.lower() for letters in (*MISTRAL, *QWEN, *LLAMA)):
        return
    wanted, folder = _LETTERS.get(kind or "", "qwen"), Path(path)
    raise Ego2ExoError(
        f"--model_name_or_path {path} (by its config {kind or model_type}): LLaVA-NeXT's train script finds the "
        "tokenizer by letters in this path, and there are none that it knows",
        f"a path that holds {wanted!r}",
        f"rename the folder, or pass a link to it: ln -s {folder.name} {folder.parent / (folder.name + '-' + wanted)}",
    )


def class_of(settings: Settings) -> str | None:
    """Key of the class that the base is trained as; None where its config says none that we know."""
    found = class_key(settings.base, str(settings["model_name_or_path"]))
    return found or _PLAIN.get(str(settings.base.get("model_type")))
