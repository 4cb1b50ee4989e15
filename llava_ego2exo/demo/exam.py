"""Multiple-choice questions about held-out clips, scored by likelihood; and the same with parts of the input taken away."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..video import read_video
from .students import FRAMES
from .world import Question, Scene, questions

_CLIPS_AT_ONCE = 10


@dataclass(frozen=True)
class Exam:
    """What one model answered.

    Args:
        chosen: clip's number -> the option chosen for each of its questions.
        percent: question type -> percent right.
    """

    chosen: Mapping[int, Sequence[str]]
    percent: Mapping[str, float] = field(default_factory=dict)


def load_quietly(path: Path, base: Path | None) -> tuple[Any, Any, Any, Any]:
    """By LLaVA's own loader, without what it prints and warns of; errors come through."""
    from ..host.asking import load

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load(str(path), base and str(base), torch_dtype="float32")
    loaded[1].eval()
    return loaded


def clip_pixels(processor: Any, file: Path) -> torch.Tensor:
    """A clip's sampled frames as the model takes them: (T, 3, H, W)."""
    clip = read_video(str(file), frames_upbound=FRAMES)
    return processor.preprocess(list(clip.frames), return_tensors="pt")["pixel_values"]


def examine(loaded: tuple[Any, Any, Any, Any], tests: Sequence[tuple[Scene, Path]], template: str, how: str = "none",
            clips_at_once: int = _CLIPS_AT_ONCE) -> Exam:  # fmt: skip
    """Ask every question about every clip.

    Args:
        loaded: what LLaVA's loader returned.
        tests: scenes, for their questions, with the file that the model sees.
        template: name of the conversation template.
        how: what is taken away, see :mod:`llava_ego2exo.host.ablation`.
        clips_at_once: clips in one forward pass.
    """
    from ..host.ablation import ablated
    from ..host.scoring import option_scores

    tokenizer, model, processor, _ = loaded
    chosen: dict[int, list[str]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    for first in range(0, len(tests), clips_at_once):
        asked = list(_asked(tests[first : first + clips_at_once], processor, first))
        videos, texts = [video for _, video, _ in asked], [question.text for *_, question in asked]
        with ablated(model, how):
            scores = option_scores(model, tokenizer, videos, texts, [q.options for *_, q in asked], template)
        for (number, _, question), score in zip(asked, scores, strict=True):
            best = question.options[max(range(len(score)), key=score.__getitem__)]
            chosen[number].append(best)
            right[question.kind].append(best == question.answer)
    return Exam(dict(chosen), {kind: 100.0 * sum(marks) / len(marks) for kind, marks in right.items()})


def _asked(tests: Sequence[tuple[Scene, Path]], processor: Any, first: int) -> Iterator[tuple[int, torch.Tensor, Question]]:
    for number, (scene, file) in enumerate(tests, first):
        pixels = clip_pixels(processor, file)
        for question in questions(scene):
            yield number, pixels, question
