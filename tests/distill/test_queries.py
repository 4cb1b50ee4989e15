"""The queries drawn for a clip, a user's file of them, and the flags of answers."""

import json

import pytest

from llava_ego2exo.distill.teach.job import QUERIES, draw_queries, flags, read_queries, repeats
from llava_ego2exo.errors import Ego2ExoError


def test_our_own_are_several_of_each_kind(tmp_path):
    assert list(QUERIES) == ["descriptive", "temporal", "spatial"]
    wordings = [wording for kind in QUERIES.values() for wording in kind]
    assert len(set(wordings)) == len(wordings) >= 15
    (tmp_path / "q.json").write_text(json.dumps(QUERIES))
    assert read_queries(None) == QUERIES == read_queries(tmp_path / "q.json")


def test_a_draw_depends_on_seed_segment_and_kind_alone():
    drawn = draw_queries(QUERIES, "t1_0003", 0)
    assert drawn == {kind: draw_queries({kind: QUERIES[kind]}, "t1_0003", 0)[kind] for kind in reversed(QUERIES)}
    assert list(drawn) == list(QUERIES) and all(drawn[kind] in QUERIES[kind] for kind in QUERIES)
    assert drawn["descriptive"] == QUERIES["descriptive"][1], "another draw would ask every finished run again"


def test_every_wording_is_drawn_about_as_often():
    drawn = [draw_queries(QUERIES, f"s{number}", 1)["temporal"] for number in range(500)]
    assert all(60 < drawn.count(wording) < 140 for wording in QUERIES["temporal"])
    assert draw_queries(QUERIES, "s1", 0) != draw_queries(QUERIES, "s1", 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "not an object of kinds"),
        ('{"a": "q"}', "kind 'a'"),
        ('{"a": [3, "q", " ", "q"]}', "3 fault.*3 is no text.*' ' is no text.*'q'"),
        ('{" a": ["q "]}', "2 fault.*' a'.*'q '"),
        ('{"a": ["see <image> now"]}', "<image>"),
    ],
)
def test_a_faulty_file(tmp_path, content, reason):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(Ego2ExoError, match=reason):
        read_queries(tmp_path / "q.json")


LOOPS = {
    "a phrase": "The person takes the knife " * 3,
    "a phrase behind a good start": "She washes the tomato, cuts it in halves, and then "
    + "puts it on the plate, " * 4,
    "a sentence, others between": "The pan is hot. He stirs it well. A. He stirs it well. B. He stirs it well. C.",
    "letters": "hahahahahahahahahahahahaha",
    "chinese": "他切菜他切菜他切菜他切菜他切菜",
    "half of it said before": " ".join(
        ["first he takes the cup from the left shelf and fills it with hot water"] * 2
        + ["he then takes the cup from the left shelf and fills it with hot water"]
        + ["again he takes the cup from the left shelf and fills it with hot water"] * 2
    ),
}
GOOD = {
    "chopping": "He goes chop, chop, chop, and scrapes it off the board.",
    "a numbered list": "1. Takes an egg. 2. Cracks it on the pan. 3. Drops the shell. 4. Takes the salt. 5. Salts.",
    "long": (
        "The person stands at a wooden table with a cutting board in front of them. With the right hand they hold a "
        "chef's knife, with the left they steady an onion. They cut it in halves, peel both, and slice each into thin "
        "strips. Then they push the strips aside with the back of the blade, take a red pepper from the bowl on the "
        "far right, remove its stem, and dice it. At the end they lay the knife down and wipe their hands on a towel."
    ),
}


def test_flags_of_answers():
    for name, text in LOOPS.items():
        assert flags(text, ended=True) == ("repeats",), name
    for name, text in GOOD.items():
        assert flags(text, ended=True) == (), name
    assert flags(" \n", ended=True) == flags("...", ended=True) == ("empty",)
    assert flags("He takes the", ended=False) == ("cut",)
    assert flags("." * 40, ended=False) == ("empty", "repeats", "cut")
    assert repeats(" ".join(str(number) for number in range(20_000))) is False  # within seconds
