"""The demo's paired world: what is held out stays out, nothing gives an answer away, and both cameras see one scene."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from llava_ego2exo.demo import world
from llava_ego2exo.demo.cameras import FRAMES, SIZE, VIEWS, draw, write_clip
from llava_ego2exo.demo.world import HANDS, HELD_OUT, OBJECTS, QUESTION_TYPES, REGIONS, chance, questions, scenes
from llava_ego2exo.video import read_video


def held(some):
    return [tuple(event.object for event in scene.events) for scene in some]


def test_held_out_pairs_of_objects_are_in_tests_alone():
    kept, tested = held(scenes(3000, 5)), held(scenes(1000, 5, held_out=True))
    assert {frozenset(pair) for pair in tested} == HELD_OUT and not {frozenset(pair) for pair in kept} & HELD_OUT
    assert Counter(name for pair in HELD_OUT for name in pair) == Counter(OBJECTS)  # each object has one such partner
    assert {frozenset(pair) for pair in combinations(OBJECTS, 2)} == HELD_OUT | {frozenset(pair) for pair in kept}


@pytest.mark.parametrize("held_out", [False, True])
def test_no_attribute_can_be_guessed_from_another(held_out):
    """Each order of two objects is as likely as the other, and each object with each hand and at each region."""
    some = list(scenes(6000, 6, held_out))
    orders = Counter(held(some))
    assert all(abs(count - orders[b, a]) < 0.35 * (count + orders[b, a]) for (a, b), count in orders.items())
    for field, values in (("hand", HANDS), ("region", REGIONS)):
        counts = Counter((e.object, getattr(e, field)) for scene in some for e in scene.events)
        even = 12000 / len(OBJECTS) / len(values)
        assert all(abs(counts[pair] - even) < 0.2 * even for pair in product(OBJECTS, values)), counts


def test_questions_have_their_answer_among_their_options_at_even_places():
    places = {kind: Counter() for kind in QUESTION_TYPES}
    for scene in scenes(800, 7, held_out=True):
        asked = questions(scene)
        assert [q.kind for q in asked].count("order") == 1 and len(asked) == 7
        for question in asked:
            assert len(set(question.options)) == len(question.options) == 100 / chance()[question.kind]
            assert question.kind != "object" or {event.object for event in scene.events} <= set(question.options)
            places[question.kind][question.options.index(question.answer)] += 1
    for kind, found in places.items():
        share = sum(found.values()) * chance()[kind] / 100
        assert all(abs(count - share) < 0.15 * share for count in found.values()), (kind, found)


def test_neither_queries_nor_captions_give_an_answer_away():
    texts = [text for wordings in world.queries().values() for text in wordings]
    assert sorted(texts) == sorted(question for question, _ in world.ego_answers(next(scenes(1, 0))))
    picture = world.ego_answers(next(scenes(1, 0)), shown=1)
    assert len(picture) == 4 and "then" not in picture[0][1]
    assert not [word for word in (*HANDS, *OBJECTS, *REGIONS) if word in " ".join(texts)]
    for scene in scenes(50, 9):
        said = " ".join(text for pair in world.scene_answers(scene) for text in pair)
        assert not [word for word in ("hand", *OBJECTS, *REGIONS) if word in said]
        assert {word.split()[0] for word in world.words(scene, "exo", 0)} < set(world.SCENE)


def test_both_cameras_see_the_event_at_its_time():
    """Two scenes that differ in one event differ in its frames alone, in both views; one seed gives one world."""
    assert list(scenes(20, 10)) == list(scenes(20, 10)) != list(scenes(20, 11))
    scene = next(scenes(1, 10))
    other = type(scene)(**{**vars(scene), "events": (scene.events[0], next(scenes(1, 13)).events[0])})
    for view in VIEWS:
        same = (draw(scene, view) == draw(other, view)).reshape(FRAMES, -1).all(1)
        assert same.tolist() == [True] * (FRAMES // 2) + [False] * (FRAMES // 2)


@pytest.mark.parametrize(("field", "values"), [("hand", HANDS), ("object", OBJECTS), ("region", REGIONS)])
def test_every_attribute_is_small_to_exo_and_large_to_ego(field, values):
    scene = next(scenes(1, 12))
    event = scene.events[0]
    other = next(value for value in values if value != getattr(event, field))
    changed = type(event)(**{**vars(event), field: other})
    altered = type(scene)(**{**vars(scene), "events": (changed, scene.events[1])})
    share = {v: (np.abs(draw(scene, v)[0].astype(int) - draw(altered, v)[0]) > 25).any(-1).mean() for v in VIEWS}
    assert 0 < share["exo"] < 0.12 and share["ego"] > 1.3 * share["exo"], share


def test_a_file_shows_what_was_drawn(tmp_path):
    frames = draw(next(scenes(1, 15)), "exo")
    write_clip(tmp_path / "clip.mp4", frames)
    clip = read_video(str(tmp_path / "clip.mp4"))
    assert clip.frames.shape == (FRAMES, SIZE, SIZE, 3) and clip.duration == FRAMES
    assert np.abs(clip.frames.astype(int) - frames).mean() < 2
