"""A small paired world: one scene seen by two cameras at once, and the words for it.

Two things happen in a clip. Each is a hand, the object it holds, and where on the table: small to the exo camera, which
sees the whole person, and large to the ego camera. Shirt, table, wall and what hangs there are plain to the exo camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

HANDS = ("left", "right")
OBJECTS = ("apple", "book", "bottle", "cup", "knife", "orange", "phone", "sponge")
# Corners of the table by what stands there, out of the picture; names that no hand has, so that words do not mix.
REGIONS = ("window", "door", "sink", "stove")
ON_THE_LEFT, NEAR = ("window", "sink"), ("sink", "stove")  # as the person sees them
SHIRTS, TABLES = ("blue", "green", "pink", "white"), ("brown", "grey", "yellow")
WALLS, ITEMS = ("beige", "purple", "teal"), ("clock", "lamp", "mirror", "plant")
PLACES = ("high left", "high right", "low left", "low right")  # on the wall, as the exo camera sees it
CLUTTER = ("basket", "box", "jar", "plate", "vase")  # on the table, never held

# Pairs of objects that only tests show in one clip, in either order: each object has one such partner. Hands and
# regions are independent of the objects, and no order is likelier than the other: nothing can be guessed from the rest.
# (Were one order alone held out, training would teach the other one by heart.)
HELD_OUT = frozenset(frozenset(pair) for pair in zip(OBJECTS[:4], OBJECTS[4:], strict=True))

QUESTION_TYPES = ("hand", "object", "region", "order")
ORDINALS = ("first", "second")
DESCRIBE = "Describe what the hands do."
ORDER = "In what order are the objects held?"
ASK = {"hand": "Which hand is used {}?", "object": "Which object is held {}?", "region": "Where is the {} object held?"}
SCENE = {
    "shirt": "What colour is the shirt?", "table": "What colour is the table?",
    "wall": "What colour is the wall?", "item": "What is on the wall?", "place": "Where on the wall is it?",
    "things": "What stands on the table?",
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

    @property
    def things(self) -> str:
        """What stands on the table, as the exo camera sees it from left to right."""
        return " and ".join(f"a {name}" for name in self.clutter)


@dataclass(frozen=True)
class SceneQuestion:
    """A multiple-choice question about a scene; `options[0]` is not always the answer."""

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str


def scenes(count: int, seed: int, held_out: bool = False) -> Iterator[Scene]:
    """Random scenes, the same for one seed; with pairs of objects of `HELD_OUT` alone, or of the others (training)."""
    rng = np.random.default_rng([seed, int(held_out)])
    pairs = [pair for pair in permutations(OBJECTS, 2) if (frozenset(pair) in HELD_OUT) == held_out]
    for _ in range(count):
        held = pairs[rng.integers(len(pairs))]
        events = tuple(Event(str(rng.choice(HANDS)), name, str(rng.choice(REGIONS))) for name in held)
        surroundings = (str(rng.choice(names)) for names in (SHIRTS, TABLES, WALLS, ITEMS, PLACES))
        clutter = tuple(str(name) for name in rng.choice(CLUTTER, 2, replace=False))
        yield Scene(events, *surroundings, clutter, int(rng.integers(2**31)))  # type: ignore[arg-type]


def describe(scene: Scene, shown: int = 2) -> str:
    """What the ego camera makes plain, of the first events of a clip that shows so many."""
    events = scene.events[:shown]
    return f"{', then '.join(f'the {e.hand} hand holds the {e.object} at the {e.region}' for e in events)}."


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
        objects = tuple(map(str, rng.permutation([*held, *rng.choice(absent, 2, replace=False)])))
        for kind, options in (("hand", HANDS), ("object", objects), ("region", REGIONS)):
            asked.append(SceneQuestion(kind, ASK[kind].format(ordinal), options, getattr(event, kind)))
    orders = tuple(f"{a} then {b}" for a, b in rng.permutation([held, held[::-1]]))
    return [*asked, SceneQuestion("order", ORDER, orders, f"{held[0]} then {held[1]}")]


def scene_answers(scene: Scene) -> list[tuple[str, str]]:
    """Questions on what the exo camera plainly sees, with their answers."""
    return [(CAPTION, caption(scene)), *((text, getattr(scene, kind)) for kind, text in SCENE.items())]


def ego_answers(scene: Scene, shown: int = 2) -> list[tuple[str, str]]:
    """What the teacher is trained on: the description and the questions without their options.

    A picture shows one event alone, and gets no question about another.
    """
    asked = [question for question in questions(scene) if shown > 1 or ORDINALS[0] in question.text]
    return [(DESCRIBE, describe(scene, shown)), *((question.text, question.answer) for question in asked)]


def queries() -> dict[str, list[str]]:
    """What the teacher is asked, by kind, as `llava-ego2exo teach --queries` reads it; one wording of a kind a clip."""
    spatial = [ASK[kind].format(ordinal) for ordinal in ORDINALS for kind in ("hand", "object", "region")]
    return {"descriptive": [DESCRIBE], "temporal": [ORDER], "spatial": spatial}


def chance() -> dict[str, float]:
    """Accuracy of guessing, in percent."""
    return dict(zip(QUESTION_TYPES, (50.0, 25.0, 25.0, 50.0), strict=True))


def vocabulary() -> list[str]:
    """Every text of the world, for the tokenizer."""
    some = Scene((Event("left", "cup", "window"), Event("right", "book", "stove")), "blue", "brown", "teal",
                 "lamp", "high left", ("box", "jar"), 0)  # fmt: skip
    texts = [text for pair in ego_answers(some) + scene_answers(some) for text in pair]
    lists = (HANDS, OBJECTS, REGIONS, SHIRTS, TABLES, WALLS, ITEMS, PLACES, CLUTTER)
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


def turns(pair: tuple[str, str], before: bool = True) -> list[dict[str, str]]:
    """A question and its answer as a conversation of LLaVA's JSON, the clip before the question or behind it."""
    question, answer = pair
    asked = f"<image>\n{question}" if before else f"{question}\n<image>"
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
