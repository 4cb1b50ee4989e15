"""Outcomes that no model gave, to count and to show."""

import numpy as np

from llava_ego2exo.evaluation.items import (
    CONSISTENCY_1,
    CONSISTENCY_2,
    DESCRIPTION,
    FAILED,
    GENERATE,
    MAIN,
    PARSED,
    UNPARSED,
    Described,
    Item,
    Outcome,
)

CATEGORIES = ("Actions", "Task regions", "Hand identification", "Hand-object interaction", "Tool use", "Step order")
OPTIONS = (
    "pouring water into the kettle", "stirring the soup", "the left hand", "the right hand", "cutting a tomato",
    "at the front of the table", "at the back of the table", "a wooden spoon",
)  # fmt: skip
SKILL = {"base": 0.42, "student": 0.62, "student-4bit": 0.55}
SETTINGS = {"dtype": "bfloat16", "bits": 16, "frames_upbound": 32}
PROVENANCE = {
    "data": {"file": "all_category_qas.json", "rows left out": []},
    "models": [
        {"name": "base", "checkpoint": "a1" * 16, "settings": SETTINGS},
        {"name": "student", "checkpoint": "b2" * 16, "settings": SETTINGS},
        {"name": "student-4bit", "checkpoint": "b2" * 16, "settings": {**SETTINGS, "bits": 4}},
    ],
    "versions": {"torch": "2.13.0", "peft": None},
}


def item(number=0, *, category="Tool use", video=None, path="", view="exo", answer="A", choices=4, **further):
    """One question of multiple choice."""
    rng = np.random.default_rng(number)
    texts = [OPTIONS[place] for place in rng.permutation(len(OPTIONS))[:choices]]
    return Item(
        id=f"{view}:{number}", benchmark="ego-in-exo", category=category, view=view, video=video or f"t{number}.mp4",
        question="What is this?", choices=dict(zip("ABCDEF", texts, strict=False)),
        answer=answer, row=str(number), path=path, **further,
    )  # fmt: skip


def outcome(item, model="base", picked="A", *, mode=GENERATE, state=PARSED, **further):
    """One outcome; `picked` counts only where it was parsed."""
    return Outcome(item, model, mode, state, picked if state == PARSED else None, **further)


def made_up(paths=("",), count=40, models=tuple(SKILL), modes=(GENERATE,), seed=0):
    """Outcomes of `count` items, some six a video; the last video fails for every model."""
    rng = np.random.default_rng(seed)
    videos = max(count // 6, 2)
    found = []
    for number in range(count):
        clip = number % videos
        one = item(
            number, category=CATEGORIES[number % len(CATEGORIES)], video=f"take{clip:02d}_exo{1 + clip % 4}.mp4",
            path=str(paths[clip % len(paths)]), answer="ABCD"[rng.integers(4)],
        )  # fmt: skip
        luck = rng.normal(0, 0.5)
        found += [_outcome(one, model, mode, clip == videos - 1, luck, rng) for model in models for mode in modes]
    return found


def _outcome(one, model, mode, fails, luck, rng):
    if fails:
        return outcome(
            one, model, mode=mode, state=FAILED, error=f"video {one.video} does not decode: moov atom not found"
        )
    right = rng.normal(SKILL[model] - 0.5, 0.4) + luck * 0.6 > 0
    picked = one.answer if right else "ABCD".replace(one.answer, "")[rng.integers(3)]
    if mode != GENERATE:
        scores = {key: float(-1.5 - rng.random()) for key in one.choices} | {picked: -0.4}
        return outcome(one, model, picked, mode=mode, scores=scores)
    if rng.random() < 0.06:
        reply = "The person seems to be cooking. " * (60 if rng.random() < 0.5 else 1)
        return outcome(one, model, mode=mode, state=UNPARSED, reply=reply, flags=("cut",) if len(reply) > 100 else ())
    reply = (f"({picked})", f"{picked}. {one.choices[picked]}", f"The answer is ({picked}) {one.choices[picked]}.")
    return outcome(one, model, picked, mode=mode, reply=reply[rng.integers(3)])


def row(number=0, path="", video=None):
    """The three questions of one description."""
    questions = {MAIN: "Describe the activities.", CONSISTENCY_1: "What comes first?", CONSISTENCY_2: "What is first?"}
    return tuple(
        Item(
            id=f"charades:{number}:{part}", benchmark="adlx-charades-desc", category="description", view="",
            video=video or f"{number}.mp4", question=question, kind=DESCRIPTION, row=f"charades:{number}", part=part,
            answer="A person opens the fridge, takes a bottle and drinks from it.", path=str(path),
        )
        for part, question in questions.items()
    )  # fmt: skip


def described(number=0, model="base", scores=(3, 2, 3, 2, 4), *, state="judged", path="", video=None, **further):
    """One row of descriptions; a score of None is missing."""
    aspects = ("correctness", "detail", "context", "temporal", "consistency")
    replies = ("A person opens a fridge and drinks.", "She opens the fridge.", "Opening the fridge.")
    replies = replies if state != FAILED else ("", "", "")
    given = dict(zip(aspects, scores, strict=True)) if scores else {}
    return Described(row(number, path, video), model, replies, scores=given, state=state, **further)


def made_up_rows(paths=("",), count=12, models=("base", "student")):
    """Rows of descriptions; every fifth lacks a score of each model, the last fails."""
    found = []
    for number in range(count):
        for place, model in enumerate(models):
            scores, further = [(number + aspect) % 4 + place for aspect in range(5)], {}
            if number % 5 == 4:
                scores[3], further = None, {"state": "unjudged", "error": "temporal: the judge gave 11, of 0 to 5"}
            if number == count - 1:
                scores, further = None, {"state": FAILED, "error": "video does not decode"}
            found.append(described(number, model, scores, path=str(paths[number % len(paths)]), **further))
    return found
