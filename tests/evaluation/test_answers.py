"""Replies are read as docs/replies.md says, never guessed, and fast."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.evaluation import option_texts
from llava_ego2exo.evaluation.answers import parse_answer
from llava_ego2exo.evaluation.parsers import PARSERS
from llava_ego2exo.evaluation.viscop import parse_viscop

ROOT = Path(__file__).parents[2]
REPLIES = Path(os.environ.get("EGO2EXO_SHARED", ROOT.parent / "shared")) / "data" / "replies" / "smarthome_ar.jsonl"
LETTERS = {"A": "pouring from kettle", "B": "walk", "C": "sit down", "D": "drinking from cup"}
NUMBERS = {str(number): text for number, text in enumerate(LETTERS.values(), 1)}
EXAMPLES = re.findall(r"^\| `(.+?)` \| (\w+) \|$", (ROOT / "docs" / "replies.md").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("reply, wanted", EXAMPLES)
def test_examples_of_the_document(reply, wanted):
    assert parse_answer(reply, LETTERS) == (None if wanted == "unparsed" else wanted)


def test_the_document_has_examples_of_both_kinds():
    assert len(EXAMPLES) > 30 and {"unparsed", *LETTERS} == {wanted for _, wanted in EXAMPLES}


@pytest.mark.parametrize(
    "reply, wanted",
    [
        ("3</s>", "3"),
        ("3.", "3"),
        ("4. Drinking from the cup", "4"),
        ("3. walk", None),
        ("Option 3", "3"),
        ("The answer is 2.", "2"),
        ("There are 3 people", None),
        ("10", None),
        ("The correct action being performed in the video is walking.", "2"),
        ("The correct action being performed in the video is reading a book.", None),
        ("2 and 3", None),
    ],
)
def test_numbered_options(reply, wanted):
    assert parse_answer(reply, NUMBERS) == wanted


@pytest.mark.parametrize(
    "choices, reply, wanted",
    [
        ({"A": "drinking", "B": "drinking from cup"}, "He is drinking from a cup", "B"),
        ({"A": "drinking", "B": "drinking from cup"}, "He is drinking", "A"),
        ({"A": "walk", "B": "walking"}, "He walks", None),
        ({"A": "walk", "B": "walking"}, "(B) walking", "B"),
        ({"A": "getting up", "B": "getting down"}, "She gets up from the chair", "A"),
        ({"A": "left", "B": "right"}, "It is on the right", "B"),
        ({"A": "left", "B": "right"}, "It isn't on the left", None),
        ({"A": "holding a pillow, throwing it", "B": "holding a pillow"}, "Holding a pillow, throwing it", "A"),
        ({"A": "yes", "B": "no"}, "No", "B"),
        ({"A": "A", "B": "B"}, "B", "B"),
        ({"A": "1", "B": "2"}, "2", "B"),
        ({"E": "one", "F": "two"}, "The answer is F", "F"),
        ({"A": "наливает", "B": "идёт"}, "Он идёт.", "B"),
        ({"A": "...", "B": "walk"}, "...", None),
    ],
)
def test_texts(choices, reply, wanted):
    assert parse_answer(reply, choices) == wanted


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(list("ABCD().,: ") + "is the answer not walk or and".split()))
       .map(" ".join))  # fmt: skip
def test_any_text_gives_a_key_or_none(reply):
    for parse in PARSERS.values():
        for choices in (LETTERS, NUMBERS):
            assert parse(reply, choices) in {None, *choices}


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz \n", max_size=120), st.sampled_from("ABCD"))
def test_a_last_declaration_counts_whatever_stands_before(before, key):
    assert parse_answer(f"{before}. So the answer is ({key}).", LETTERS) == key


@settings(max_examples=60, deadline=None)
@given(st.permutations(list(LETTERS.values())), st.sampled_from(list(LETTERS.values())))
def test_a_text_moves_with_its_key(texts, said):
    choices = dict(zip("ABCD", texts, strict=True))
    assert choices[parse_answer(f"The person is {said} now.", choices)] == said


@pytest.mark.parametrize("key", [*"ABCDEF", *"123456"])
@pytest.mark.parametrize("shape", ["{}", "({})", "[{}]", "{}.", "{})", " {}\n", "Answer: {}", "**{}**", "{}<|im_end|>"])
def test_a_bare_key_is_itself(key, shape):
    letters = key.isalpha()
    choices = {k: f"option text {number}" for number, k in enumerate("ABCDEF" if letters else "123456")}
    assert parse_answer(shape.format(key), choices) == key


@pytest.mark.parametrize(
    "unit", ["the answer is ", "(A) ", "a", "walk ", "answer ", "(", "A, ", "\n", "option ", "A.", "-", "*", "is not "]
)
def test_a_long_reply_is_read_in_seconds(unit):
    began = time.perf_counter()
    parse_answer(unit * (100_000 // len(unit)), LETTERS)
    assert time.perf_counter() - began < 30, "grows with the square of the length"


def test_without_the_stemmer(monkeypatch):
    option_texts._stemmer.cache_clear()
    option_texts._stem.cache_clear()
    monkeypatch.setitem(sys.modules, "snowballstemmer", None)
    with pytest.raises(Ego2ExoError, match=r"snowballstemmer is not installed.*llava-ego2exo\[eval\]"):
        parse_answer("He walks.", LETTERS)


class TestPublishedWay:
    """What the first capital does to good replies; the strict parser reads each as it is meant."""

    @pytest.mark.parametrize(
        "reply, published, meant",
        [
            ("A person is cutting something, so (C)", "A", "C"),
            ("Based on the video, D", "B", "D"),
            ("Cutting board", "C", None),
            ("Answer: B", "A", "B"),
            ("C", "C", "C"),
            ("c", None, "C"),
        ],
    )
    def test_first_capital(self, reply, published, meant):
        assert parse_viscop(reply, LETTERS) == published
        assert parse_answer(reply, LETTERS) == meant

    def test_numbers_are_taken_by_place(self):
        assert parse_viscop("Boiling water", NUMBERS) == "2"
        assert parse_viscop("2", NUMBERS) is None
        assert parse_viscop("D", {"A": "x", "B": "y"}) is None and parse_viscop("D", {"1": "x", "2": "y"}) is None


def test_agreement_on_real_replies():
    if not REPLIES.is_file():
        pytest.skip(f"no replies at {REPLIES} (set EGO2EXO_SHARED)")
    rows = [json.loads(line) for line in REPLIES.read_text(encoding="utf-8").splitlines()]
    read = [parse_answer(row["reply"], row["choices"]) for row in rows]
    agree = [(row["choices"][key] if key else None) == row["picked"] for key, row in zip(read, rows, strict=True)]
    assert sum(agree) / len(rows) >= 0.99
    command = [sys.executable, ROOT / "scripts" / "parser_agreement.py", REPLIES]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    document = (ROOT / "docs" / "replies.md").read_text(encoding="utf-8")
    assert all(line in document for line in printed.splitlines()), "the document holds what the script prints"


def test_reading_replies_loads_nothing_heavy():
    program = (
        "import sys; from llava_ego2exo.evaluation import parse_answer as p; assert p('A', dict(A='x', B='y')) == 'A';"
        "print([name for name in ('torch', 'numpy', 'transformers', 'llava', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
