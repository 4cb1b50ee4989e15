"""Intervals against plain references, by simulation, and where there is little to go by."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ego2exo.evaluation.stats.intervals import (
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


def test_quantiles_of_student_fall_to_the_normal_without_a_step():
    known = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 10: 2.22814, 29: 2.04523, 120: 1.97993, 1000: 1.96234}
    assert {freedom: student(freedom) for freedom in known} == pytest.approx(known, abs=1e-5)
    assert student(10**6) == pytest.approx(Z, abs=1e-5) and 0 < student(1000) - student(1001) < 1e-5


class TestShare:
    def test_one_question_a_video_is_plain_wilson(self):
        # 81 of 263 is worked out in Newcombe (1998), two-sided 95%.
        for right, count, interval in ((81, 263, (0.2553, 0.3662)), (0, 20, (0.0, 0.1611))):
            answers = [True] * right + [False] * (count - right)
            assert share_interval(answers, own_videos(count)) == pytest.approx(interval, abs=5e-5)

    def test_effective_size_by_hand(self):
        right, videos = [1, 1, 0, 0, 1, 0, 1, 1], list("aabbccdd")
        plain = (5 * (3 / 8) ** 2 + 3 * (5 / 8) ** 2) / (8 * 7)
        wanted = 8 * plain / clustered_variance(right, videos) * (student(7) / student(3)) ** 2
        assert effective_size(right, videos) == pytest.approx(wanted) and wanted < 4

    def test_questions_that_agree_count_once_a_video(self):
        once, videos = [True] * 30 + [False] * 20, own_videos(50)
        assert share_interval(once * 5, videos * 5) == pytest.approx(share_interval(once, videos), abs=0.01)
        assert np.ptp(wilson(0.6, 250)) < 0.5 * np.ptp(share_interval(once * 5, videos * 5))
        assert share_interval([True] * 200, own_videos(20) * 10) == wilson(1.0, 20)

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
        assert share_interval(right[::-1], videos[::-1]) == pytest.approx(interval)
        second = [one[1] for one in answers]
        low, high = difference_interval(right, second, videos)
        assert -1 <= low <= (sum(right) - sum(second)) / len(right) <= high <= 1 and high - low > 0.05

    def test_covers_the_truth_where_plain_wilson_does_not(self, videos=30, each=4, share=0.8):
        rng, names = np.random.default_rng(7), own_videos(videos) * each
        hits, naive = [], []
        for _ in range(200):
            own = rng.beta(share, 1 - share, videos)  # correlation 1/2 within a video
            right = (rng.random((each, videos)) < own).ravel().tolist()
            for found, ends in ((hits, share_interval(right, names)), (naive, wilson(np.mean(right), len(right)))):
                found.append(ends[0] <= share <= ends[1])
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

    def test_plain_mirrored_and_without_any_difference(self):
        first, second = [True] * 12 + [False] * 2 + [True] * 36, [False] * 12 + [True] * 2 + [True] * 36
        low, high = difference_interval(first, second, own_videos(50))
        assert (low, high) == pytest.approx(tango(12 / 50, 2 / 50, 50))
        assert difference_interval(second, first, own_videos(50)) == pytest.approx((-high, -low))
        same = [True, False] * 50
        low, high = difference_interval(same, same, own_videos(10) * 10)
        assert low == pytest.approx(-high) and high == pytest.approx(Z**2 / (10 + Z**2))

    def test_covers_where_t_shrinks_to_a_point(self):
        """15 videos of 4 questions, of which the models answer few otherwise: why the interval is the one it is."""
        rng, names, truth = np.random.default_rng(5), np.repeat(np.arange(15), 4), 0.06 * 0.6
        tango_hits, t_hits = [], []
        for _ in range(200):
            gaps = (rng.random(60) < rng.beta(0.12, 1.88, 15)[names]) * np.where(rng.random(60) < 0.8, 1, -1)
            low, high = difference_interval((gaps > 0).tolist(), (gaps < 0).tolist(), names.tolist())
            tango_hits.append(low <= truth <= high)
            t_hits.append(abs(gaps.mean() - truth) <= student(14) * math.sqrt(clustered_variance(gaps, names)))
        assert np.mean(tango_hits) >= 0.93 and np.mean(t_hits) < 0.85


def test_a_mean_is_clustered_as_a_regression_on_a_constant_and_cut_at_the_scale():
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 8])
    marks = np.clip(2.5 + rng.normal(0, 1, 8)[videos] + rng.normal(0, 0.3, 36), 0, 5)
    reach = student(7) * math.sqrt(clustered_variance(marks, videos))
    wanted = (marks.mean() - reach, marks.mean() + reach)
    assert mean_interval(marks.tolist(), videos.tolist(), (0, 5)) == pytest.approx(wanted)
    assert mean_interval([5.0, 5.0, 0.0], own_videos(3), (0, 5)) == (0, 5)


def test_too_little_to_say():
    for right, videos in (([], []), ([True], ["a"]), ([True, False, True], ["a"] * 3)):
        assert share_interval(right, videos) is None and difference_interval(right, right, videos) is None
        assert mean_interval(list(map(float, right)), videos, (0, 5)) is None
    assert share_interval([True, False], ["a", "b"]) is not None
    assert mean_interval([0.1] * 7, own_videos(7), (0, 5)) is None
