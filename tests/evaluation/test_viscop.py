"""What the first capital does to good replies; the strict parser reads each as it is meant."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_ego2exo.evaluation.replies.parser import parse_answer, parse_viscop

LETTERS = {"A": "pouring from kettle", "B": "walk", "C": "sit down", "D": "drinking from cup"}
NUMBERS = {str(number): text for number, text in enumerate(LETTERS.values(), 1)}


@pytest.mark.parametrize(
    "reply, published, meant",
    [
        ("A person is cutting something, so (C)", "A", "C"),
        ("Based on the video, D", "B", "D"),
        ("Cutting board", "C", None),
        ("The person sits down. Definitely.", "D", "C"),
        ("Answer: B", "B", "B"),
        ("answer A or answer B", "A", None),
        ("ANSWER: B", "A", "B"),
        ("(C)", "C", "C"),
        ("c", None, "C"),
        ("walking", None, "B"),
        ("", None, None),
    ],
)
def test_first_capital(reply, published, meant):
    assert parse_viscop(reply, LETTERS) == published
    assert parse_answer(reply, LETTERS) == meant


def test_numbers_are_taken_by_place_and_letters_up_to_the_last_option():
    assert parse_viscop("Boiling water", NUMBERS) == "2"
    assert parse_viscop("2", NUMBERS) is None and parse_viscop("3. sit down", NUMBERS) is None
    assert parse_viscop("D", {"1": "x", "2": "y"}) is None
    six = dict.fromkeys("ABCDEF", "x")
    assert parse_viscop("For sure", six) == "F" and parse_viscop("For sure", LETTERS) is None
    assert parse_viscop("Ground", six) is None and parse_viscop("D", {"A": "x", "B": "y"}) is None
    assert parse_viscop("B", {"A": "x", "C": "y"}) is None and parse_viscop("A", {}) is None


@given(st.text(alphabet=string.printable, max_size=60))
def test_it_is_a_key_or_none(reply):
    for choices in (LETTERS, NUMBERS, {"yes": "x", "no": "y"}):
        assert parse_viscop(reply, choices) in {None, *choices}
