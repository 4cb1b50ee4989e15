"""What of a run is worth looking at: some questions with their clips and answers, and where the ego tokens look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..video import read_video
from .exam import clip_pixels
from .loading import load_quietly
from .pipeline import Seed
from .results import Look, Shown
from .students import FRAMES
from .world import DESCRIBE, QUESTION_TYPES, describe, questions

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
    from ..host.teacher import Teacher

    teacher = Teacher(load_quietly(model, base), template, max_new_tokens=48)
    answers = teacher.answer([clip_pixels(teacher.image_processor, file) for file in files], [[DESCRIBE]] * len(files))
    return [said if isinstance(said, str) else said[0].text for said in answers]  # type: ignore[index]


def looks(run: Seed, student: str) -> list[Look]:
    """Where the ego tokens of one student look in the first clips of the tests."""
    from ..host.looking import look

    _, model, processor, _ = load_quietly(run.folder / f"student-{student}", run.base.model)
    found = []
    for scene, _, exo in run.tests[:_LOOKS]:
        seen = look(model, clip_pixels(processor, exo))
        names = [f"layer {layer}" for layer in seen.layers]
        found.append(Look(f"{student}: {describe(scene)}", frames(exo), seen.maps.mean(1).numpy(), names))
    return found
