"""A small paired world: one scene seen by two cameras at once, and the words for it.

Two things happen in a clip. Each is a hand, the object it holds, and where on the table: small to the exo camera, which
sees the whole person, and large to the ego camera. Shirt, table, wall and what hangs there are plain to the exo camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

HANDS = ("left", "right")
OBJECTS = ("apple", "book", "bottle", "cup", "knife", "orange", "phone", "sponge")
REGIONS = ("far left", "far right", "near left", "near right")  # as the person sees them
SHIRTS, TABLES = ("blue", "green", "pink", "white"), ("brown", "grey", "yellow")
WALLS, ITEMS = ("beige", "purple", "teal"), ("clock", "lamp", "mirror", "plant")
PLACES = ("high left", "high right", "low left", "low right")  # on the wall, as the exo camera sees it
CLUTTER = ("box", "jar", "plate")  # on the table, never held

# Eight of the 32 (object, region) pairs, each object once and each region twice, are seen in tests alone, with either
# hand. Whole triples must not be held out instead: a pair would then be left with one hand, which training would learn
# by heart; and were a region held out more often than another, always naming it would beat chance.
HELD_OUT = frozenset(zip(OBJECTS, REGIONS * 2, strict=True))

QUESTION_TYPES = ("hand", "object", "region", "order")
ORDINALS = ("first", "second")
DESCRIBE = "Describe what the hands do."
ORDER = "In what order are the objects held?"
ASK = {"hand": "Which hand is used {}?", "object": "Which object is held {}?", "region": "Where is the {} object held?"}
SCENE = {
    "shirt": "What colour is the shirt?", "table": "What colour is the table?",
    "wall": "What colour is the wall?", "item": "What is on the wall?", "place": "Where on the wall is it?",
}  # fmt: skip
CAPTION = "Describe the room."


@dataclass(frozen=True)
class Event:
    """One hand holds one object at one region of the table."""

    hand: str
    object: str
    region: str


@dataclass(frozen=True)
class Scene:
    """What one clip shows: two events with different objects, and what the exo camera plainly sees.

    The seed is that of camera shift, light and noise.
    """

    events: tuple[Event, Event]
    shirt: str
    table: str
    wall: str
    item: str
    place: str
    clutter: tuple[str, str]
    seed: int


@dataclass(frozen=True)
class SceneQuestion:
    """A multiple-choice question about a scene; `options[0]` is not always the answer."""

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str


def scenes(count: int, seed: int, held_out: bool = False) -> Iterator[Scene]:
    """Random scenes, the same for one seed; of pairs of `HELD_OUT` alone (tests), or of the others (all training)."""
    rng = np.random.default_rng([seed, int(held_out)])
    pairs = [pair for pair in product(OBJECTS, REGIONS) if (pair in HELD_OUT) == held_out]
    for _ in range(count):
        first = pairs[rng.integers(len(pairs))]
        others = [pair for pair in pairs if pair[0] != first[0]]
        second = others[rng.integers(len(others))]
        events = tuple(Event(str(rng.choice(HANDS)), *pair) for pair in (first, second))
        surroundings = (str(rng.choice(names)) for names in (SHIRTS, TABLES, WALLS, ITEMS, PLACES))
        clutter = tuple(str(name) for name in rng.choice(CLUTTER, 2, replace=False))
        yield Scene(events, *surroundings, clutter, int(rng.integers(2**31)))  # type: ignore[arg-type]


def describe(scene: Scene) -> str:
    """What the ego camera makes plain."""
    parts = [f"the {event.hand} hand holds the {event.object} at the {event.region}" for event in scene.events]
    return f"{', then '.join(parts)}."


def caption(scene: Scene) -> str:
    """What the exo camera makes plain."""
    return f"a {scene.shirt} shirt, a {scene.table} table, a {scene.wall} wall and a {scene.item} at the {scene.place}."


def questions(scene: Scene) -> list[SceneQuestion]:
    """Two questions each on hand, object and region, and one on the order."""
    rng = np.random.default_rng([scene.seed, 7])
    held = [event.object for event in scene.events]
    absent = [name for name in OBJECTS if name not in held]
    asked = []
    for event, ordinal in zip(scene.events, ORDINALS, strict=True):
        objects = tuple(sorted([*held, *(str(name) for name in rng.choice(absent, 2, replace=False))]))
        for kind, options in (("hand", HANDS), ("object", objects), ("region", REGIONS)):
            asked.append(SceneQuestion(kind, ASK[kind].format(ordinal), options, getattr(event, kind)))
    orders = tuple(f"{a} then {b}" for a, b in (sorted(held), sorted(held, reverse=True)))
    return [*asked, SceneQuestion("order", ORDER, orders, f"{held[0]} then {held[1]}")]


def scene_answers(scene: Scene) -> list[tuple[str, str]]:
    """Questions on what the exo camera plainly sees, with their answers."""
    return [(CAPTION, caption(scene)), *((text, getattr(scene, kind)) for kind, text in SCENE.items())]


def ego_answers(scene: Scene) -> list[tuple[str, str]]:
    """What the teacher is trained on: the description and the questions without their options."""
    return [(DESCRIBE, describe(scene)), *((question.text, question.answer) for question in questions(scene))]


def queries() -> dict[str, list[str]]:
    """What the teacher is asked, by kind, as `llava-ego2exo teach --queries` reads it; one wording of a kind a clip."""
    spatial = [ASK[kind].format(ordinal) for ordinal in ORDINALS for kind in ("hand", "object", "region")]
    return {"descriptive": [DESCRIBE], "temporal": [ORDER], "spatial": spatial}


def chance() -> dict[str, float]:
    """Accuracy of guessing, in percent."""
    return dict(zip(QUESTION_TYPES, (50.0, 25.0, 25.0, 50.0), strict=True))


def vocabulary() -> list[str]:
    """Every text of the world, for the tokenizer."""
    some = Scene((Event("left", "cup", "far left"), Event("right", "book", "near right")), "blue", "brown", "teal",
                 "lamp", "high left", ("box", "jar"), 0)  # fmt: skip
    texts = [text for pair in ego_answers(some) + scene_answers(some) for text in pair]
    lists = (HANDS, OBJECTS, REGIONS, SHIRTS, TABLES, WALLS, ITEMS, PLACES)
    words = [f" {word}" for names in lists for name in names for word in name.split()]
    return [*texts, *words, *(word.strip() for word in words)]


def words(scene: Scene, view: str, index: int) -> set[str]:
    """Words of a frame that shows the event of this index, for the encoder's pretraining.

    The exo camera's are its large colours alone: what is on the wall the language model has to read off the patches,
    as it will have to read what small hands hold.
    """
    if view == "exo":
        return {f"{name} {getattr(scene, name)}" for name in ("shirt", "table", "wall")}
    event = scene.events[index]
    return {f"hand {event.hand}", f"object {event.object}", f"region {event.region}"}
