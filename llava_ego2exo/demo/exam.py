"""Multiple-choice questions about held-out clips, scored by likelihood: ``python -m llava_ego2exo.demo.exam ...``.

A student with ego tokens is also asked with parts of its input taken away, which tells whether it uses them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..common.files import write_atomic
from ..video import read_video
from .models import load_quietly
from .pipeline import Seed, read_tests
from .results import Look, Shown
from .students import FRAMES
from .world import DESCRIBE, QUESTION_TYPES, Question, Scene, describe, questions

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
        how: what is taken away, see :mod:`llava_ego2exo.host.model.inspection`.
        clips_at_once: clips in one forward pass.
    """
    from ..host.inference.option_scoring import option_scores
    from ..host.model.inspection import ablated

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


def _asked(
    tests: Sequence[tuple[Scene, Path]], processor: Any, first: int
) -> Iterator[tuple[int, torch.Tensor, Question]]:
    for number, (scene, file) in enumerate(tests, first):
        pixels = clip_pixels(processor, file)
        for question in questions(scene):
            yield number, pixels, question


def main(argv: Sequence[str] | None = None) -> int:
    """Ask one model, in every way that means something for it, and write what it answered."""
    from ..host.model.inspection import hows

    parser = argparse.ArgumentParser(prog="python -m llava_ego2exo.demo.exam", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of a checkpoint")
    parser.add_argument("--base", type=Path, help="what it was trained from")
    parser.add_argument("--tests", type=Path, required=True, help="the tests.json")
    parser.add_argument("--view", choices=("ego", "exo"), default="exo", help="which camera it sees (default: exo)")
    parser.add_argument("--template", required=True, help="LLaVA's conversation template")
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    args = parser.parse_args(argv)
    loaded, tests = load_quietly(args.model, args.base), read_tests(args.tests, args.view)
    exams = {how: asdict(examine(loaded, tests, args.template, how)) for how in hows(loaded[1])}
    write_atomic(args.out, json.dumps(exams, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())


# What of a run is worth looking at: some questions with their clips and answers, and where the ego tokens look.

_ITEMS, _LOOKS = 8, 2


def shown_items(run: Seed, student: str) -> list[Shown]:
    """The first clips of the tests, a question type each in turn; nothing is chosen by its answers.

    Args:
        run: one seed.
        student: the variant whose description of the exo clip is shown beside the teacher's of the ego clip.
    """
    tests = run.tests[:_ITEMS]
    told = _descriptions(run.base.model, None, [ego for _, ego, _ in tests], run.base.template)
    seen = _descriptions(
        run.folder / f"student-{student}", run.base.model, [exo for *_, exo in tests], run.base.template
    )
    items = []
    for number, (scene, ego, exo) in enumerate(tests):
        asked = questions(scene)
        kind = QUESTION_TYPES[number % len(QUESTION_TYPES)]
        place = next(i for i, question in enumerate(asked) if question.kind == kind)
        answers = {name: exams["none"]["chosen"][str(number)][place] for name, exams in run.exams.items()}
        question = asked[place]
        items.append(
            Shown(kind, question.text, question.options, question.answer, answers, frames(ego), frames(exo),
                  told[number], seen[number])
        )  # fmt: skip
    return items


def frames(file: Path) -> Any:
    """The frames that a model gets of a clip: (T, H, W, 3) uint8."""
    return read_video(str(file), frames_upbound=FRAMES).frames


def _descriptions(model: Path, base: Path | None, files: list[Path], template: str) -> list[str]:
    from ..host.inference.answerer import Teacher

    teacher = Teacher(load_quietly(model, base), template, max_new_tokens=48)
    answers = teacher.answer([clip_pixels(teacher.image_processor, file) for file in files], [[DESCRIBE]] * len(files))
    return [said if isinstance(said, str) else said[0].text for said in answers]  # type: ignore[index]


def looks(run: Seed, student: str) -> list[Look]:
    """Where the ego tokens of one student look in the first clips of the tests."""
    from ..host.model.inspection import look

    _, model, processor, _ = load_quietly(run.folder / f"student-{student}", run.base.model)
    found = []
    for scene, _, exo in run.tests[:_LOOKS]:
        seen = look(model, clip_pixels(processor, exo))
        names = [f"layer {layer}" for layer in seen.layers]
        found.append(Look(f"{student}: {describe(scene)}", frames(exo), seen.maps.mean(1).numpy(), names))
    return found
