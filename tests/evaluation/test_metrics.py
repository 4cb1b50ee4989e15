"""The numbers of an evaluation: counted by hand, adding up, and refused where they would be wrong."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.evaluation.items import FAILED, GENERATE, LIKELIHOOD, MODES, PARSED, UNPARSED
from llava_ego2exo.evaluation.report.tables import table_text
from llava_ego2exo.evaluation.stats.intervals import difference_interval, share_interval
from llava_ego2exo.evaluation.stats.metrics import compute_metrics

from .made_up_outcomes import described, item, outcome

KEY, STATE = st.sampled_from("ABCD"), st.sampled_from([PARSED, UNPARSED, FAILED])


def only(rows, **wanted):
    """The one row with these values."""
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def percent(interval):
    return pytest.approx([100 * end for end in interval])


@pytest.fixture(scope="module")
def small():
    """Two models, three videos, two categories; by hand."""
    items = [
        item(0, video="a", category="x", answer="A"), item(1, video="a", category="x", answer="B", choices=2),
        item(2, video="b", category="x", answer="C"), item(3, video="b", category="y", answer="A"),
        item(4, video="c", category="y", answer="D", choices=5),
    ]  # fmt: skip
    base = [
        outcome(items[0], "base", "A"), outcome(items[1], "base", "A"), outcome(items[2], "base", state=UNPARSED),
        outcome(items[3], "base", "A", judged=True), outcome(items[4], "base", state=FAILED, error="no video"),
    ]  # fmt: skip
    student = [outcome(one, "student", one.answer) for one in items[:4]]
    return [*base, *student, outcome(items[4], "student", state=FAILED, error="no video")]


class TestAccuracy:
    def test_by_hand(self, small):
        found = compute_metrics(small, [], {})
        row = only(found["accuracy"], model="base", category="all")
        counts = {"n": 5, "videos": 3, "right": 2, "parsed": 3, "unparsed": 1, "failed": 1, "judged": 1}
        assert {name: row[name] for name in counts} == counts
        assert row["accuracy"] == 40 and row["mode"] == GENERATE and row["view"] == "exo"
        assert row["chance"] == pytest.approx(100 * (3 / 4 + 1 / 2 + 1 / 5) / 5)
        assert row["interval"] == percent(share_interval([1, 0, 0, 1, 0], list("aabbc")))
        row = only(found["accuracy"], model="base", category="y")
        assert (row["n"], row["right"], row["failed"], row["unparsed"]) == (2, 1, 1, 0)
        assert found["models"] == ["base", "student"] and found["compare_to"] == "base" and not found["notes"]

    def test_one_video_has_no_interval_and_an_empty_category_no_number(self, small):
        found = compute_metrics([replace(one, item=replace(one.item, video="b")) for one in small], [], {})
        assert {row["interval"] for row in (*found["accuracy"], *found["differences"])} == {None}
        assert "–" in table_text(found)
        further = outcome(item(9, video="d", category="z"), "student", "A")
        found = compute_metrics([*small, further], [], {})
        row = only(found["accuracy"], model="base", category="z")
        assert row["n"] == row["parsed"] == row["videos"] == 0
        assert row["accuracy"] is row["interval"] is row["chance"] is None
        assert only(found["differences"], category="z")["difference"] is None

    def test_views_and_modes_stand_apart(self, small):
        ego = [replace(one, item=replace(one.item, view="ego", id=f"ego{one.item.id}")) for one in small[:5]]
        found = compute_metrics([*small, *ego, *(replace(one, mode=LIKELIHOOD) for one in small)], [], {})["accuracy"]
        counts = {(row["model"], row["mode"], row["view"]): row["n"] for row in found if row["category"] == "all"}
        exo = [(model, mode, "exo") for model in ("base", "student") for mode in MODES]
        assert counts == dict.fromkeys([*exo, ("base", GENERATE, "ego")], 5)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(KEY, KEY, STATE, st.integers(0, 3), st.sampled_from("xyz")), min_size=1, max_size=20))
    def test_adds_up(self, drawn):
        outcomes = [
            outcome(item(number, answer=answer, video=str(video), category=category), picked=picked, state=state)
            for number, (answer, picked, state, video, category) in enumerate(drawn)
        ]
        found = compute_metrics(outcomes, [], {})
        total, *parts = found["accuracy"]
        for row in found["accuracy"]:
            assert row["parsed"] + row["unparsed"] + row["failed"] == row["n"] and row["right"] <= row["parsed"]
        for name in ("n", "right", "parsed", "unparsed", "failed"):
            assert total[name] == sum(row[name] for row in parts)
        assert sum(row["picked"] for row in found["positions"]) == total["parsed"]
        assert sum(row["right"] for row in found["positions"]) == total["n"]
        assert json.loads(json.dumps(found, allow_nan=False)) == found


class TestDifferences:
    def test_by_hand(self, small):
        row = only(compute_metrics(small, [], {})["differences"], category="all")
        assert (row["model"], row["against"], row["n"], row["videos"]) == ("student", "base", 5, 3)
        assert (row["difference"], row["better"], row["worse"]) == (40, 2, 0)
        first, second = [True] * 4 + [False], [True, False, False, True, False]
        assert row["interval"] == percent(difference_interval(first, second, list("aabbc")))

        row = only(compute_metrics(small, [], {}, compare_to="student")["differences"], category="all")
        assert (row["model"], row["against"], row["difference"]) == ("base", "student", -40)
        with pytest.raises(Ego2ExoError) as caught:
            compute_metrics(small, [], {}, compare_to="other")
        assert "other" in caught.value.given and caught.value.allowed == "base, student"

    def test_only_on_items_that_both_were_asked_in_one_mode(self, small):
        found = compute_metrics(small[:-3], [], {})
        row = only(found["differences"], category="all")
        assert (row["n"], row["difference"]) == (2, 50)
        assert len(found["notes"]) == 1 and "all 5 items: student 2" in found["notes"][0]
        assert found["notes"][0] in table_text(found)

        other = [replace(one, mode=LIKELIHOOD) if one.model == "student" else one for one in small]
        assert compute_metrics(other, [], {})["differences"] == []


def test_positions(small):
    found = compute_metrics(small, [], {})
    base = [row for row in found["positions"] if row["model"] == "base"]
    assert [(row["key"], row["picked"], row["right"]) for row in base] == [
        ("A", 3, 2), ("B", 0, 1), ("C", 0, 1), ("D", 0, 1), ("E", 0, 0),
    ]  # fmt: skip
    assert "100.0 (40.0)" in table_text(found)


class TestDescriptions:
    def test_by_hand(self):
        rows = [
            described(0, scores=(5, 4, 3, 2, 1)), described(1, scores=(3, 4, 3, None, 1), state="unjudged"),
            described(2, scores=None, state=FAILED, error="no video"), described(3, scores=None),
        ]  # fmt: skip
        rows[3] = replace(rows[3], state="unjudged", error="no judge")
        found = compute_metrics([], rows, {})
        row = only(found["descriptions"], aspect="correctness", category="all")
        assert (row["n"], row["judged"], row["missing"], row["failed"]) == (4, 2, 1, 1)
        assert row["mean"] == pytest.approx(20 * (5 + 3 + 0) / 3)  # a failure is 0, what is missing is not
        low, high = row["interval"]
        assert low == 0 and high == 100  # three videos say little
        row = only(found["descriptions"], aspect="temporal", category="all")
        assert (row["judged"], row["missing"], row["failed"], row["mean"]) == (1, 2, 1, 20)
        row = only(found["descriptions"], aspect="mean of aspects", category="all")
        assert (row["judged"], row["missing"], row["failed"], row["mean"]) == (1, 2, 1, 30)
        assert found["benchmark"] == "adlx-charades-desc" and found["accuracy"] == []

    def test_differences_are_paired(self):
        rows = [described(number, model, (mark + (model == "b"), 2, 2, 2, 2))
                for number, mark in enumerate((0, 2, 4, 1)) for model in "ab"]  # fmt: skip
        rows.append(described(9, "b", (0, 0, 0, 0, 0)))
        found = compute_metrics([], rows, {})["descriptions"]
        row = only(found, model="b", aspect="correctness", category="all")
        assert (row["against"], row["difference"], row["pairs"], row["n"]) == ("a", 20, 4, 5)
        assert row["difference_interval"] is None  # all alike
        assert only(found, model="a", aspect="detail", category="all")["against"] is None

    def test_an_aspect_that_no_row_has_is_not_missing_and_without_a_judge_nothing_is_zero(self):
        found = compute_metrics([], [replace(described(n), scores={"detail": 2, "context": n}) for n in range(3)], {})
        assert {row["aspect"] for row in found["descriptions"]} == {"detail", "context", "mean of aspects"}
        found = compute_metrics([], [replace(described(n, scores=None), state="unjudged") for n in range(3)], {})
        assert {(row["mean"], row["missing"]) for row in found["descriptions"]} == {(None, 3)}
        assert "nothing" in table_text(compute_metrics([], [], {}, compare_to="base"))
