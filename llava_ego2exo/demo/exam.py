"""Multiple-choice questions about held-out clips, scored by likelihood: ``python -m llava_ego2exo.demo.exam ...``.

A student with ego tokens is also asked with parts of its input taken away, which shows whether it uses them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..common.files import write_atomic
from ..video import read_video
from .models import FRAMES, load_quietly
from .pipeline import SeedRun, read_tests
from .results import ClipAttention, Example
from .world import DESCRIBE, QUESTION_TYPES, Scene, describe, questions

_CLIPS_AT_ONCE, _EXAMPLES, _ATTENTION = 10, 8, 2


def frames(file: Path) -> Any:
    """The frames that a model gets of a clip: (T, H, W, 3) uint8."""
    return read_video(str(file), frames_upbound=FRAMES).frames


def clip_pixels(processor: Any, file: Path) -> torch.Tensor:
    """The same as the model takes them: (T, 3, H, W)."""
    return processor.preprocess(list(frames(file)), return_tensors="pt")["pixel_values"]


def examine(
    loaded: tuple[Any, Any, Any, Any], tests: Sequence[tuple[Scene, Path]], template: str, ablation: str = "none"
) -> dict[str, Any]:
    """Ask every question about every clip.

    Args:
        loaded: what LLaVA's loader returned.
        tests: scenes, for their questions, with the file that the model sees.
        template: name of the conversation template.
        ablation: what is taken away, see :mod:`llava_ego2exo.host.model.inspection`.

    Returns:
        "chosen": for each clip the option chosen for each of its questions; "percent": question type -> percent right.
    """
    from ..host.inference.option_scoring import option_scores
    from ..host.model.inspection import ablated

    tokenizer, model, processor, _ = loaded
    chosen: list[list[str]] = []
    right: dict[str, list[bool]] = {kind: [] for kind in QUESTION_TYPES}
    for first in range(0, len(tests), _CLIPS_AT_ONCE):
        batch = tests[first : first + _CLIPS_AT_ONCE]
        clips = [(clip_pixels(processor, file), questions(scene)) for scene, file in batch]
        videos, asked = zip(*((pixels, question) for pixels, about in clips for question in about), strict=True)
        texts, options = [question.text for question in asked], [question.options for question in asked]
        with ablated(model, ablation):
            scores = iter(option_scores(model, tokenizer, list(videos), texts, options, template))
        for _, about in clips:
            chosen.append([])
            for question in about:
                score = next(scores)
                chosen[-1].append(question.options[score.index(max(score))])
                right[question.kind].append(chosen[-1][-1] == question.answer)
    return {"chosen": chosen, "percent": {kind: 100.0 * sum(marks) / len(marks) for kind, marks in right.items()}}


def main(argv: Sequence[str] | None = None) -> int:
    """Ask one model, in every way that means something for it, and write what it answered."""
    from ..host.model.inspection import ablation_modes

    parser = argparse.ArgumentParser(prog="python -m llava_ego2exo.demo.exam", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of a checkpoint")
    parser.add_argument("--base", type=Path, help="what it was trained from")
    parser.add_argument("--tests", type=Path, required=True, help="the tests.json")
    parser.add_argument("--view", choices=("ego", "exo"), default="exo", help="which camera it sees (default: exo)")
    parser.add_argument("--template", required=True, help="LLaVA's conversation template")
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    args = parser.parse_args(argv)
    loaded, tests = load_quietly(args.model, args.base), read_tests(args.tests, args.view)
    exams = {one: examine(loaded, tests, args.template, one) for one in ablation_modes(loaded[1])}
    write_atomic(args.out, json.dumps(exams, indent=1))
    return 0


def examples(run: SeedRun, student: str) -> list[Example]:
    """The first clips of the tests, a question type each in turn; nothing is chosen by its answers.

    The description of the exo clip by `student` is shown beside the teacher's of the ego clip.
    """
    tests, base = run.tests[:_EXAMPLES], run.base
    by_teacher = _descriptions(base.model, None, [ego for _, ego, _ in tests], base.template)
    by_student = _descriptions(run.student(student), base.model, [exo for *_, exo in tests], base.template)
    found = []
    for number, (scene, ego, exo) in enumerate(tests):
        kind = QUESTION_TYPES[number % len(QUESTION_TYPES)]
        place, question = next((i, one) for i, one in enumerate(questions(scene)) if one.kind == kind)
        answers = {name: exams["none"]["chosen"][number][place] for name, exams in run.exams.items()}
        found.append(
            Example(kind, question.text, question.options, question.answer, answers, frames(ego), frames(exo),
                    by_teacher[number], by_student[number])
        )  # fmt: skip
    return found


def _descriptions(model: Path, base: Path | None, files: list[Path], template: str) -> list[str]:
    from ..host.inference.answerer import Answerer

    answerer = Answerer(load_quietly(model, base), template, max_new_tokens=48)
    clips = [clip_pixels(answerer.image_processor, file) for file in files]
    return [answers[0].text for answers in answerer.answer(clips, [[DESCRIBE]] * len(files))]


def attention(run: SeedRun, student: str) -> list[ClipAttention]:
    """Where the ego tokens of one student attend in the first clips of the tests."""
    from ..host.model.inspection import video_attention_maps

    _, model, processor, _ = load_quietly(run.student(student), run.base.model)
    found = []
    for scene, _, exo in run.tests[:_ATTENTION]:
        seen = video_attention_maps(model, clip_pixels(processor, exo))
        names = [f"layer {layer}" for layer in seen.layers]
        found.append(ClipAttention(f"{student}: {describe(scene)}", frames(exo), seen.maps.mean(1).numpy(), names))
    return found


if __name__ == "__main__":
    sys.exit(main())
