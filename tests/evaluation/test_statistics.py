"""Intervals against plain references, by simulation, and where there is little to go by."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ego2exo.evaluation.statistics import (
    Z,
    difference_interval,
    effective_size,
    mean_interval,
    share_interval,
    student,
    tango,
    wilson,
)

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=30)


def own_videos(count):
    return [str(number) for number in range(count)]


def clustered_variance(values, videos):
    """Of the mean, written out with a matrix: (X'X)^-1 X' S X (X'X)^-1 of a regression on a constant."""
    values, names = np.asarray(values, float), np.unique(videos)
    gaps = values - values.mean()
    meat = sum(np.outer(gaps[own], gaps[own]).sum() for own in (np.asarray(videos) == name for name in names))
    return len(names) / (len(names) - 1) * meat / len(values) ** 2


class TestStudent:
    def test_known_quantiles(self):
        known = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 10: 2.22814, 29: 2.04523, 120: 1.97993, 1000: 1.96234}
        assert {freedom: student(freedom) for freedom in known} == pytest.approx(known, abs=1e-5)

    def test_falls_to_the_normal_without_a_step(self):
        found = [student(freedom) for freedom in (1, 2, 3, 10, 999, 1000, 1001, 1002, 10**6)]
        assert found == sorted(found, reverse=True) and found[-1] == pytest.approx(Z, abs=1e-5)
        assert student(1000) - student(1001) < 1e-5

    def test_against_draws(self):
        rng = np.random.default_rng(0)
        for freedom in (3, 8):
            inside = np.abs(rng.standard_t(freedom, 200_000)) < student(freedom)
            assert inside.mean() == pytest.approx(0.95, abs=0.002)


class TestShare:
    @pytest.mark.parametrize(
        ("right", "count", "interval"),
        # 81 of 263 and 15 of 148 are worked out in Newcombe (1998), two-sided 95%.
        [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
    )
    def test_one_question_a_video_is_plain_wilson(self, right, count, interval):
        answers = [True] * right + [False] * (count - right)
        assert share_interval(answers, own_videos(count)) == pytest.approx(interval, abs=5e-5)

    def test_wilson_solves_its_equation(self):
        for share in (0.0, 0.03, 0.5, 1.0):
            for end in wilson(share, 12.5):
                assert abs(share - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / 12.5), abs=1e-9)

    def test_effective_size_by_hand(self):
        right, videos = [1, 1, 0, 0, 1, 0, 1, 1], list("aabbccdd")
        gaps = [2 - 1.25, 0 - 1.25, 1 - 1.25, 2 - 1.25]
        variance = 4 / 3 * sum(gap**2 for gap in gaps) / 64
        plain = (5 * (3 / 8) ** 2 + 3 * (5 / 8) ** 2) / (8 * 7)
        wanted = 8 * plain / variance * (student(7) / student(3)) ** 2
        assert clustered_variance(right, videos) == pytest.approx(variance)
        assert effective_size(right, videos) == pytest.approx(wanted) and wanted < 4

    def test_questions_that_agree_are_worth_one(self):
        """Every answer five times says no more than once, and less as only the videos can tell."""
        once = [True] * 30 + [False] * 20
        videos = own_videos(50)
        single, fivefold = share_interval(once, videos), share_interval(once * 5, videos * 5)
        assert fivefold[0] < single[0] + 1e-3 and fivefold[1] > single[1] - 1e-3
        assert fivefold == pytest.approx(single, abs=0.01)
        assert np.ptp(wilson(0.6, 250)) < 0.5 * np.ptp(fivefold)

    def test_all_right_or_wrong_counts_videos(self):
        videos = own_videos(20) * 10
        assert share_interval([True] * 200, videos) == wilson(1.0, 20)
        assert share_interval([False] * 200, videos) == wilson(0.0, 20)
        assert share_interval([True] * 200, videos)[0] < 0.85 and share_interval([True] * 200, videos)[1] == 1.0

    def test_too_little_to_say(self):
        assert share_interval([], []) is None
        assert share_interval([True], ["a"]) is None
        assert share_interval([True, False, True], ["a"] * 3) is None
        assert share_interval([True, False], ["a", "b"]) is not None

    @settings(max_examples=60, deadline=None)
    @given(ANSWERS)
    def test_holds_the_share_and_never_shrinks_to_a_point(self, answers):
        right, videos = [one[0] for one in answers], [str(one[2]) for one in answers]
        interval = share_interval(right, videos)
        if len(set(videos)) < 2:
            assert interval is None
            return
        low, high = interval
        assert 0 <= low <= sum(right) / len(right) <= high <= 1 and high - low > 0.05
        assert high - low >= np.ptp(wilson(sum(right) / len(right), len(right))) - 1e-9
        order = np.random.default_rng(0).permutation(len(right))
        shuffled = share_interval([right[place] for place in order], [videos[place] for place in order])
        assert shuffled == pytest.approx(interval)

    @pytest.mark.parametrize(("videos", "each", "share"), [(12, 4, 0.5), (30, 4, 0.8), (60, 6, 0.6)])
    def test_covers_the_truth_where_plain_wilson_does_not(self, videos, each, share):
        rng, names = np.random.default_rng(7), own_videos(videos) * each
        hits, naive = [], []
        for _ in range(300):
            own = rng.beta(share, 1 - share, videos)  # correlation 1/2 within a video
            right = [bool(one) for one in (rng.random((each, videos)) < own).ravel()]
            low, high = share_interval(right, names)
            hits.append(low <= share <= high)
            low, high = wilson(sum(right) / len(right), len(right))
            naive.append(low <= share <= high)
        assert np.mean(hits) >= 0.92 and np.mean(naive) < 0.85


class TestDifference:
    def test_tango_is_where_the_score_test_turns(self):
        """Against the score statistic with its constrained likelihood maximised by brute force."""
        for first, second, count in ((12, 2, 50), (1, 6, 20), (0, 3, 25)):
            low, high = tango(first / count, second / count, count)
            for end, sign in ((low, 1), (high, -1)):
                shares = np.linspace(max(0.0, -end), (1 - end) / 2, 200_001)[1:-1]
                with np.errstate(divide="ignore", invalid="ignore"):
                    likelihood = (count - first - second) * np.log(1 - 2 * shares - end)
                    likelihood += first * np.log(shares + end) if first else 0
                    likelihood += second * np.log(shares) if second else 0
                share = shares[np.nanargmax(likelihood)]
                variance = (2 * share + end - end**2) / count
                score = ((first - second) / count - end) / math.sqrt(variance)
                assert score == pytest.approx(sign * Z, abs=2e-3)

    def test_one_question_a_video_is_plain_tango(self):
        first, second = [True] * 12 + [False] * 2 + [True] * 36, [False] * 12 + [True] * 2 + [True] * 36
        assert difference_interval(first, second, own_videos(50)) == pytest.approx(tango(12 / 50, 2 / 50, 50))

    def test_mirrored(self):
        first, second, videos = [True, True, False, True], [False, True, True, False], list("aabb")
        low, high = difference_interval(first, second, videos)
        assert difference_interval(second, first, videos) == pytest.approx((-high, -low))

    def test_models_that_never_differ_still_leave_doubt(self):
        same, videos = [True, False] * 50, own_videos(10) * 10
        low, high = difference_interval(same, same, videos)
        assert low == pytest.approx(-high) and high == pytest.approx(Z**2 / (10 + Z**2))

    def test_as_a_bootstrap_over_videos_finds(self):
        """With many videos, drawn whole with replacement, the two agree."""
        rng = np.random.default_rng(3)
        videos = np.repeat(np.arange(300), 4)
        skill = rng.normal(0, 1, 300)[videos]
        first, second = (skill + rng.normal(shift, 1, 1200) > 0 for shift in (0.5, 0.2))
        gaps = first.astype(int) - second.astype(int)
        sums = np.bincount(videos, gaps)
        drawn = [sums[rng.integers(0, 300, 300)].sum() / 1200 for _ in range(4000)]
        found = difference_interval(first.tolist(), second.tolist(), videos.tolist())
        assert found == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.004)

    def test_covers_where_bootstrap_and_t_shrink_to_a_point(self):
        """15 videos of 4 questions, of which the models answer few otherwise: why the interval is the one it is."""
        rng, names, truth = np.random.default_rng(5), np.repeat(np.arange(15), 4), 0.06 * 0.6
        hits = {"tango": [], "bootstrap": [], "t": []}
        for _ in range(200):
            often = rng.beta(0.12, 1.88, 15)[names]
            gaps = (rng.random(60) < often) * np.where(rng.random(60) < 0.8, 1, -1)
            sums = np.bincount(names, gaps)
            drawn = sums[rng.integers(0, 15, (400, 15))].sum(1) / 60
            reach = student(14) * math.sqrt(clustered_variance(gaps, names))
            ends = {
                "tango": difference_interval((gaps > 0).tolist(), (gaps < 0).tolist(), names.tolist()),
                "bootstrap": np.percentile(drawn, [2.5, 97.5]),
                "t": (gaps.mean() - reach, gaps.mean() + reach),
            }
            for name, (low, high) in ends.items():
                hits[name].append(low <= truth <= high)
        found = {name: np.mean(each) for name, each in hits.items()}
        assert found["tango"] >= 0.93 and found["bootstrap"] < 0.85 and found["t"] < 0.85, found

    def test_too_little_to_say(self):
        assert difference_interval([], [], []) is None
        assert difference_interval([True, True], [False, True], ["a", "a"]) is None

    @settings(max_examples=60, deadline=None)
    @given(ANSWERS)
    def test_holds_the_difference(self, answers):
        first, second, videos = ([one[place] for one in answers] for place in range(3))
        interval = difference_interval(first, second, videos)
        if len(set(videos)) > 1:
            low, high = interval
            assert -1 <= low <= (sum(first) - sum(second)) / len(first) <= high <= 1 and high - low > 0.05


class TestMean:
    def test_one_mark_a_video_is_the_plain_t_interval(self):
        marks = [3.0, 2.0, 4.0, 5.0, 1.0]
        reach = 2.776445 * np.std(marks, ddof=1) / math.sqrt(5)
        assert mean_interval(marks, own_videos(5), (0, 5)) == pytest.approx((3 - reach, 3 + reach), abs=1e-5)

    def test_clustered_as_a_regression_on_a_constant(self):
        rng = np.random.default_rng(0)
        videos = np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 8])
        marks = np.clip(2.5 + rng.normal(0, 1, 8)[videos] + rng.normal(0, 0.3, 36), 0, 5)
        reach = student(7) * math.sqrt(clustered_variance(marks, videos))
        wanted = (marks.mean() - reach, marks.mean() + reach)
        assert mean_interval(marks.tolist(), videos.tolist(), (0, 5)) == pytest.approx(wanted)

    def test_cut_at_the_ends_of_the_scale(self):
        assert mean_interval([5.0, 5.0, 0.0], own_videos(3), (0, 5)) == (0, 5)

    @pytest.mark.parametrize("mark", [0.0, 4.0, 0.1])
    def test_nothing_to_say(self, mark):
        assert mean_interval([mark] * 7, own_videos(7), (0, 5)) is None
        assert mean_interval([mark, 3.0], ["a", "a"], (0, 5)) is None
        assert mean_interval([], [], (0, 5)) is None
