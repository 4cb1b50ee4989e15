"""Tokens that LLaVA's flags add to a base's vocabulary, whose embeddings are in no file of the base."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ...common.processes import log_line
from ...errors import Ego2ExoError
from .config import read_tokenizer

# In non_lora_trainables.bin and mm_projector.bin, behind a layer's name: its last rows.
ADDED_ROWS = ".added_rows"
_resize = PreTrainedModel.resize_token_embeddings  # kept, as it is held back while a teacher loads


def added_tokens(flags: Any) -> list[str]:
    """What LLaVA adds to a tokenizer by `mm_use_im_patch_token` and `mm_use_im_start_end` of a config or of flags."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    patch = [DEFAULT_IMAGE_PATCH_TOKEN] if flags.get("mm_use_im_patch_token") else []
    return patch + ([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN] if flags.get("mm_use_im_start_end") else [])


def vocabulary_size(flags: Mapping[str, Any], base: str, size: int, tokenizer: Any = None) -> int:
    """Embeddings of a model after LLaVA has added its tokens: as many as the tokenizer has then.

    Args:
        flags: a checkpoint's config, or a run's flags.
        base: where the tokenizer is read, unless it is given.
        size: embeddings of the base, which stay where no flag adds tokens.
        tokenizer: of the base.
    """
    tokens = added_tokens(flags)
    return len({*(tokenizer or read_tokenizer(base)).get_vocab(), *tokens}) if tokens else size


def enlarge(model: Any, size: int, extras: MutableMapping[str, Tensor], path: str) -> None:
    """Give a base's model the embeddings of the run that trained on it.

    Args:
        model: changed in place.
        size: how many there were.
        extras: what training saved, out of which their last rows are taken.
        path: of the trained checkpoint.
    """
    rows = {name: extras.pop(name) for name in list(extras) if name.endswith(ADDED_ROWS)}
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    before = len(layers[0].weight)
    if before != size:
        _resize(model, size)
    if size > before and not rows:
        log_line(f"{path} holds no embeddings for {size - before} added token(s): they are the mean of the others'")
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight.data[before:] = layer.weight.data[:before].mean(dim=0, keepdim=True)
    put_rows(dict(model.named_parameters()), rows, path)


def put_rows(weights: Mapping[str, Tensor], rows: Mapping[str, Tensor], path: str) -> None:
    """Put saved last rows into the layers that they are of."""
    for name, tensor in rows.items():
        weight = weights.get(name.removesuffix(ADDED_ROWS) + ".weight")
        if weight is None or weight.shape[1:] != tensor.shape[1:] or len(tensor) > len(weight):
            own = "no such layer" if weight is None else str(tuple(weight.shape))
            raise Ego2ExoError(
                f"{path}: {name} is {tuple(tensor.shape)}, the model has {own}", "rows of its embeddings",
                "check that the base is the one that was trained on",
            )  # fmt: skip
        weight.data[len(weight) - len(tensor) :] = tensor.to(weight.device, weight.dtype)
