"""Multiple-choice questions about new clips, scored by likelihood: ``python -m llava_ego2exo.demo.exam ...``.

A student with ego tokens is also asked with parts of its input taken away, which shows whether it uses them.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.files import write_atomic
from ..video.cache import FrameCache
from .base import Base
from .cameras import read_tests
from .models import load_quietly
from .results import HELD_OUT, WRITTEN, ClipAttention, Example
from .variants import FRAMES
from .world import DESCRIBE, QUESTION_TYPES, Scene, describe, questions

_EVENT = re.compile(r"the (\w+) hand holds the (\w+) at the (\w+)")
_CLIPS_AT_ONCE, _EXAMPLES, _ATTENTION, _ATTENTION_SHARES = 10, 8, 2, 20

Tests = Mapping[str, Sequence[tuple[Scene, Path]]]  # split -> scenes, for their questions, with the file that is shown


def frames(file: Path) -> np.ndarray:
    """The frames that a model gets of a clip: (T, H, W, 3) uint8."""
    return np.asarray(_reader(file.parent.with_name("frames"))(str(file), frames_upbound=FRAMES).frames)


@functools.cache
def _reader(folder: Path) -> FrameCache:
    """The exams of all models decode a clip once, into the folder that training keeps its frames in."""
    return FrameCache(folder, max_gb=1.0)


def pixels(processor: Any, clip: np.ndarray) -> torch.Tensor:
    """The same as the model takes them: (T, 3, H, W)."""
    return processor.preprocess(list(clip), return_tensors="pt")["pixel_values"]


def examine_model(model: Path, base: Path | None, tests: Tests, template: str) -> dict[str, Any]:
    """Ask one model every question about every clip, and of held-out pairs in every way that means something for it.

    Args:
        model: folder of a checkpoint.
        base: what it was trained from; None where it stands alone.
        tests: clips of the splits.
        template: name of LLaVA's conversation template.

    Returns:
        "splits": split -> ablation (see :mod:`llava_ego2exo.host.model.inspection`) -> "chosen", for each clip the
        option chosen for each question, and "percent", question type -> percent right; "visual_tokens" of one clip in
        the language model's input; "seconds" of CPU time an answer, from a clip's frames to the scores of all options;
        "written", each of `WRITTEN` -> percent, and "descriptions", what it wrote about clips of held-out pairs;
        "attention" of the true answers to ego tokens, visual tokens and text, empty without ego tokens.
    """
    from ..host.inference.option_scoring import answer_row
    from ..host.inference.settings import prompt
    from ..host.model.inspection import ablation_modes, answer_attention, visual_length

    loaded = load_quietly(model, base)
    tokenizer, llava, processor, _ = loaded
    clips = {split: [(scene, frames(file)) for scene, file in shown] for split, shown in tests.items()}
    _examine(loaded, clips[HELD_OUT][:2], template)  # a first call costs more
    started = time.process_time()
    splits = {split: {"none": _examine(loaded, shown, template)} for split, shown in clips.items()}
    asked = sum(len(questions(scene)) for shown in clips.values() for scene, _ in shown)
    seconds = (time.process_time() - started) / asked
    held_out = clips[HELD_OUT]
    for mode in ablation_modes(llava)[1:]:
        splits[HELD_OUT][mode] = _examine(loaded, held_out, template, mode)
    some = [(pixels(processor, clip), one) for scene, clip in held_out[:_ATTENTION_SHARES] for one in questions(scene)]
    rows = [answer_row(tokenizer, prompt(one.text, template), one.answer) for _, one in some]
    with_tokens = len(splits[HELD_OUT]) > 1
    descriptions = _describe(loaded, [clip for _, clip in held_out], template)
    return {
        "written": written_scores(descriptions, [scene for scene, _ in held_out]),
        "descriptions": descriptions,
        "visual_tokens": visual_length(llava, rows[0][0], some[0][0]),
        "seconds": seconds,
        "splits": splits,
        "attention": answer_attention(llava, rows, [clip for clip, _ in some]) if with_tokens else {},
    }


def _examine(
    loaded: tuple[Any, Any, Any, Any], clips: Sequence[tuple[Scene, np.ndarray]], template: str, ablation: str = "none"
) -> dict[str, Any]:
    """Every question about the clips of one split: "chosen" and "percent"."""
    from ..host.inference.option_scoring import option_scores
    from ..host.model.inspection import ablated

    tokenizer, model, processor, _ = loaded
    chosen: list[list[str]] = []
    right: dict[str, list[bool]] = {kind: [] for kind in QUESTION_TYPES}
    for first in range(0, len(clips), _CLIPS_AT_ONCE):
        batch = [(pixels(processor, clip), questions(scene)) for scene, clip in clips[first : first + _CLIPS_AT_ONCE]]
        videos, asked = zip(*((clip, question) for clip, about in batch for question in about), strict=True)
        texts, options = [question.text for question in asked], [question.options for question in asked]
        with ablated(model, ablation):
            scores = iter(option_scores(model, tokenizer, list(videos), texts, options, template))
        for _, about in batch:
            chosen.append([])
            for question in about:
                score = next(scores)
                chosen[-1].append(question.options[score.index(max(score))])
                right[question.kind].append(chosen[-1][-1] == question.answer)
    return {"chosen": chosen, "percent": {kind: 100.0 * sum(marks) / len(marks) for kind, marks in right.items()}}


def _describe(loaded: tuple[Any, Any, Any, Any], clips: Sequence[np.ndarray], template: str) -> list[str]:
    """What a model itself writes about some clips."""
    from ..host.inference.answerer import Answerer

    answerer, found = Answerer(loaded, template, max_new_tokens=48), []
    for first in range(0, len(clips), _CLIPS_AT_ONCE):
        shown = [pixels(answerer.image_processor, clip) for clip in clips[first : first + _CLIPS_AT_ONCE]]
        found += [answers[0].text for answers in answerer.answer(shown, [[DESCRIBE]] * len(shown))]
    return found


def written_scores(texts: Sequence[str], shown: Sequence[Scene]) -> dict[str, float]:
    """Percent of right facts (hand, object and region of each event), and of descriptions without a fault."""
    facts, whole = [], []
    for text, scene in zip(texts, shown, strict=True):
        found = [*_EVENT.findall(text), *[("", "", "")] * len(scene.events)]
        pairs = zip(scene.events, found, strict=False)
        facts += [fact == part for event, seen in pairs for fact, part in zip(astuple(event), seen, strict=True)]
        whole.append(text.strip() == describe(scene))
    return {name: 100.0 * sum(marks) / len(marks) for name, marks in zip(WRITTEN, (facts, whole), strict=True)}


def main(argv: Sequence[str] | None = None) -> int:
    """Ask one model, and write what it answered."""
    parser = argparse.ArgumentParser(prog="python -m llava_ego2exo.demo.exam", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of a checkpoint")
    parser.add_argument("--base", type=Path, help="what it was trained from")
    parser.add_argument("--tests", type=Path, required=True, help="the tests.json")
    parser.add_argument("--view", choices=("ego", "exo"), default="exo", help="which camera it sees (default: exo)")
    parser.add_argument("--template", required=True, help="LLaVA's conversation template")
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    args = parser.parse_args(argv)
    exam = examine_model(args.model, args.base, read_tests(args.tests, args.view), args.template)
    write_atomic(args.out, json.dumps(exam, indent=1))
    return 0


def examples(
    clips: Sequence[tuple[Scene, Path, Path]], exams: Mapping[str, dict[str, Any]], student: str
) -> list[Example]:
    """The first clips of held-out pairs, a question type each in turn; nothing is chosen by its answers.

    The description of the exo clip by the variant `student` is shown beside the teacher's of the ego clip.
    """
    tests = [(scene, frames(ego), frames(exo)) for scene, ego, exo in clips[:_EXAMPLES]]
    by_teacher, by_student = (exams[name]["descriptions"] for name in ("teacher", student))
    found = []
    for number, (scene, ego, exo) in enumerate(tests):
        kind = QUESTION_TYPES[number % len(QUESTION_TYPES)]
        place, question = next((i, one) for i, one in enumerate(questions(scene)) if one.kind == kind)
        chosen = {name: exam["splits"][HELD_OUT]["none"]["chosen"][number] for name, exam in exams.items()}
        answers = {name: options[place] for name, options in chosen.items()}
        found.append(
            Example(kind, question.text, question.options, question.answer, answers, ego, exo,
                    by_teacher[number], by_student[number])
        )  # fmt: skip
    return found


def attention(clips: Sequence[tuple[Scene, Path, Path]], base: Base, student: Path) -> list[ClipAttention]:
    """Where the ego tokens of one student attend in the first clips of held-out pairs."""
    from ..host.model.inspection import video_attention_maps

    _, model, processor, _ = load_quietly(student, base.model)
    found, name = [], student.name.removeprefix("student-")
    for scene, _, file in clips[:_ATTENTION]:
        clip = frames(file)
        seen = video_attention_maps(model, pixels(processor, clip))
        names = [f"layer {layer}" for layer in seen.layers]
        found.append(ClipAttention(f"{name}: {describe(scene)}", clip, seen.maps.mean(1).numpy(), names))
    return found


if __name__ == "__main__":
    sys.exit(main())
