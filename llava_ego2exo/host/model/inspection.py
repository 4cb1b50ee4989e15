"""What a student makes of its ego tokens: parts of its input taken away, attention to them, and attention maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...config import Ego2ExoConfig
from ...errors import Ego2ExoError
from ...method.attention_maps import attention_maps
from ..hooks.install import substituted
from .answer_tokens import IMAGE_TOKEN_INDEX, capture_labels
from .projector import ego_branch
from .vision import capture

ABLATIONS = ("none", "removed", "other clip", "alone")
_OFF: ContextVar[bool] = ContextVar("ego2exo_tokens_off", default=False)


tokens_are_off = _OFF.get  # whether the running block has switched ego tokens off


@contextmanager
def tokens_off() -> Iterator[None]:
    """Inside the block every model gets its input as plain LLaVA makes it: the ordinary visual tokens alone."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


def ablation_modes(model: Any) -> tuple[str, ...]:
    """Those of `ABLATIONS` that apply to a model.

    A model without ego tokens has nothing to ablate; of one that gets its ego tokens alone, nothing of the video
    would be left without them.
    """
    if ego_branch(getattr(model.get_model(), "mm_projector", None)) is None:
        return ("none",)
    return ABLATIONS if Ego2ExoConfig.from_object(model.config).visual_tokens else ("none", "other clip")


@contextmanager
def ablated(model: Any, mode: str) -> Iterator[None]:
    """Run `model` inside the block with a part of its input changed; everything is as before afterwards.

    Args:
        model: a LLaVA model.
        mode: "none" changes nothing; "removed" takes the ego tokens away; "other clip" gives each video the ego
            tokens of the video before it in the batch (the first gets the last one's); "alone" takes the ordinary
            visual tokens away.

    Raises:
        Ego2ExoError: an unknown `mode`, or one that does not apply to this model (see :func:`ablation_modes`); inside
            the block, with "other clip", a batch of one video, or neighbours in the batch that are the same clip.
    """
    if mode not in ABLATIONS:
        raise Ego2ExoError(f"ablation {mode!r}", ", ".join(ABLATIONS))
    allowed = ablation_modes(model)
    if mode not in allowed:
        reason = "has no ego tokens" if allowed == ("none",) else "gets its ego tokens alone"
        raise Ego2ExoError(f"ablation {mode!r} of a model that {reason}", ", ".join(allowed), "use ablation_modes()")
    if mode == "removed":
        with tokens_off():
            yield
    elif mode == "alone":
        with substituted(model.config, ego2exo_visual_tokens=False):
            yield
    else:
        with ExitStack() as stack:
            if mode == "other clip":
                branch = ego_branch(model.get_model().mm_projector)
                stack.callback(branch.register_forward_hook(_other_clip).remove)  # type: ignore[union-attr]
            yield


def _other_clip(_branch: Any, args: tuple[dict[int, Tensor], list[int]], tokens: Tensor) -> Tensor:
    """The branch's output (V, P, LLM width), each row from the video before."""
    hidden_states, lengths = args
    if len(lengths) < 2:
        raise Ego2ExoError(
            f"ablation 'other clip' with {len(lengths)} video in the batch", "two or more", "ask about several clips"
        )
    videos = next(iter(hidden_states.values())).split(lengths)
    same = [i for i, video in enumerate(videos) if _equal(video, videos[i - 1])]
    if same:
        raise Ego2ExoError(
            f"ablation 'other clip' where video {same[0]} of the batch is the same clip as the one before it "
            f"({len(same)} such of {len(lengths)})",
            "another clip next to each",
            "put questions about different clips side by side in the batch",
        )
    return tokens.roll(1, 0)


def _equal(video: Tensor, other: Tensor) -> bool:
    # Rounding may differ between places in a batch; states of two clips differ by far more.
    return video.shape == other.shape and torch.allclose(video, other, rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def visual_length(model: Any, ids: Tensor, video: Tensor) -> int:
    """How many tokens one video, (T, 3, H, W), is in the language model's input, ego tokens among them.

    `ids` are a prompt's, (L,), with one placeholder.
    """
    with capture_labels(model) as expanded, substituted(model.config, tokenizer_model_max_length=None):
        _run(model, ids, video, labels=ids[None].to(model.device))
    return expanded.lengths[0] - len(ids) + 1


@torch.inference_mode()
def answer_attention(model: Any, rows: Sequence[tuple[Tensor, int]], videos: Sequence[Tensor]) -> dict[str, float]:
    """How much of its attention an answer gives to what: the mean over rows, layers, heads and answer tokens.

    Args:
        model: a LLaVA model with ego tokens, whose attention runs as "eager" or "sdpa".
        rows: ids of a prompt with one placeholder and the answer behind it, and how many are the prompt's, as
            :func:`~llava_ego2exo.host.inference.option_scoring.answer_row` gives them.
        videos: one for each row, (T, 3, H, W).

    Returns:
        Shares that sum to 1: "ego tokens", "visual tokens" (the ordinary ones), "text". An answer token's attention is
        that of the place which predicts it.

    Raises:
        Ego2ExoError: the model has no ego tokens, or its attention returns no weights.
    """
    branch = ego_branch(getattr(model.get_model(), "mm_projector", None))
    if branch is None:
        raise Ego2ExoError(f"{type(model).__name__} without ego tokens", "a student trained with --ego2exo True")
    sums = torch.zeros(3, dtype=torch.float64)
    for (ids, start), video in zip(rows, videos, strict=True):
        with substituted(model.config, tokenizer_model_max_length=None):
            layers = _run(model, ids, video, output_attentions=True).attentions
        if not layers or layers[0] is None:
            raise Ego2ExoError("attention without weights", "eager or sdpa attention", "load it with another one")
        length, answer = layers[0].shape[-1], len(ids) - start
        ego = branch.reader.num_tokens if not tokens_are_off() else 0
        ordinary, first = length - (len(ids) - 1) - ego, int((ids == IMAGE_TOKEN_INDEX).nonzero()[0])
        means = torch.stack([layer[0, :, -answer - 1 : -1].double().mean((0, 1)).cpu() for layer in layers]).mean(0)
        front = Ego2ExoConfig.from_object(model.config).place == "front"
        one, other = (ego, ordinary) if front else (ordinary, ego)
        before, *both, behind = means.split([first, one, other, length - first - one - other])
        own, visual = both if front else reversed(both)
        sums += torch.stack([own.sum(), visual.sum(), before.sum() + behind.sum()])
    return dict(zip(("ego tokens", "visual tokens", "text"), (sums / len(rows)).tolist(), strict=True))


def _run(model: Any, ids: Tensor, video: Tensor, **options: Any) -> Any:
    """One row through the model."""
    return model(
        input_ids=ids[None].to(model.device), images=[video.to(model.device, model.dtype)], modalities=["video"],
        use_cache=False, return_dict=True, **options,
    )  # fmt: skip


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of one video's ego tokens, averaged over heads or with heads kept apart.

    A token's map of a layer sums to 1 over frames, rows and columns.
    """

    layers: tuple[int, ...]  # zero-based numbers of the encoder layers that the tokens read, ascending
    maps: Tensor  # (layers, [H,] P, frames, side, side), float32 on the CPU


def has_attention(model: Any) -> bool:
    """Whether :func:`video_attention_maps` can give anything: the model has ego tokens that read the encoder."""
    branch = ego_branch(getattr(model.get_model(), "mm_projector", None))
    return branch is not None and bool(branch.reader.layers)


@torch.no_grad()
def video_attention_maps(model: Any, frames: Tensor, per_head: bool = False) -> AttentionMaps:
    """Run the vision tower and the ego tokens on one video (T, 3, H, W), and keep their attention to its patches.

    Raises:
        Ego2ExoError: the model has no ego tokens or no tower, or `frames` is not one video.
    """
    branch, tower = ego_branch(getattr(model.get_model(), "mm_projector", None)), model.get_vision_tower()
    if branch is None or tower is None:
        lacks = "ego tokens" if branch is None else "a vision tower"
        raise Ego2ExoError(f"{type(model).__name__} without {lacks}", "a student trained with --ego2exo True")
    if frames.ndim != 4 or frames.shape[0] < 1:
        raise Ego2ExoError(f"frames of shape {tuple(frames.shape)}", "(T, 3, H, W), one video", "pass one at a time")
    count, side = frames.shape[0], tower.num_patches_per_side
    if not branch.reader.layers:
        raise Ego2ExoError("attention maps of constant tokens", "a block that reads the encoder")
    with capture(tower, branch.reader) as captured:
        tower(frames.to(tower.device, tower.dtype))
        states = captured.frames([(0, count)], count)
        (maps,) = attention_maps(branch.reader, states, [count], per_head, captured.parts)
    return AttentionMaps(branch.reader.layers, maps.unflatten(-1, (side, side)).cpu())
