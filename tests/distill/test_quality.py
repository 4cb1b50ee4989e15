"""What is flagged, and what must not be."""

import pytest

from llava_ego2exo.distill.teach.job import flags, repeats

LOOPS = {
    "a phrase": "The person takes the knife " * 3,
    "a phrase behind a good start": "She washes the tomato, cuts it in halves, and then "
    + "puts it on the plate, " * 4,
    "a word": "He cuts the the the the the the the the the the the the bread",
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
    "short": "Yes.",
    "chopping": "He goes chop, chop, chop, and scrapes it off the board.",
    "to and fro": "The hand moves left, right, left, right, and stops.",
    "a numbered list": "1. Takes an egg. 2. Cracks it on the pan. 3. Drops the shell. 4. Takes the salt. 5. Salts.",
    "long": (
        "The person stands at a wooden table with a cutting board in front of them. With the right hand they hold a "
        "chef's knife, with the left they steady an onion. They cut it in halves, peel both, and slice each into thin "
        "strips. Then they push the strips aside with the back of the blade, take a red pepper from the bowl on the "
        "far right, remove its stem, and dice it. At the end they lay the knife down and wipe their hands on a towel."
    ),
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_running_in_a_circle(text):
    assert repeats(text) and "repeats" in flags(text, ended=True)


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_good_answers_have_no_flag(text):
    assert flags(text, ended=True) == ()


@pytest.mark.parametrize("text", ["", " \n", "..."])
def test_empty(text):
    assert flags(text, ended=True) == ("empty",)


def test_cut_and_all_at_once():
    assert flags("He takes the", ended=False) == ("cut",)
    assert flags("." * 40, ended=False) == ("empty", "repeats", "cut")


def test_a_long_text_takes_no_long_time():
    assert repeats(" ".join(str(number) for number in range(20_000))) is False
