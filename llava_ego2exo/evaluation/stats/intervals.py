"""How sure a number is: intervals that know that questions about one video are right or wrong together.

The questions about a video are one draw, not several, so every interval here is clustered by video. The variance of a
mean over n values of K videos is the cluster-robust (Taylor-linearised) one,

    v = K / (K - 1) * sum over videos of (sum of the video's deviations from the mean)^2 / n^2,

and the effective sample size is that of Korn and Graubard (1998, Survey Methodology 24), which also pays for having
estimated v from K videos only:

    n* = n * (v0 / v) * (t[n - 1] / t[K - 1])^2, at most n,

with v0 the variance as if the values were independent, and t[f] the 97.5% quantile of Student's t with f degrees of
freedom. Where all values are alike, v says nothing, and n* is K: a video is then worth one answer. An accuracy gets
Wilson's (1927) score interval with n* in place of n, as compared with others by Franco, Little, Louis and Slud (2019,
Journal of Survey Statistics and Methodology 7); a paired difference gets Tango's score interval (1998, Statistics in
Medicine 17) in the same way. Where each video has one question both are the plain published intervals.

Why no bootstrap over videos: where two models rarely differ it often sees no difference at all and shrinks to a point,
as mean +- t * error does; the tests simulate both. Nothing here is drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

Interval = tuple[float, float]
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def share_interval(right: Sequence[bool], videos: Sequence[str]) -> Interval | None:
    """95% interval of a share of right answers, from 0 to 1, by whether each question is right, and its video.

    Returns:
        (low, high); None for fewer than two videos, from which nothing can be said about others.
    """
    size = effective_size(right, videos)
    return None if size is None else wilson(sum(right) / len(right), size)


def difference_interval(first: Sequence[bool], second: Sequence[bool], videos: Sequence[str]) -> Interval | None:
    """95% interval of the first share of right answers minus the second, both of the same questions, from -1 to 1.

    Returns:
        (low, high); None for fewer than two videos.
    """
    size = effective_size([int(a) - int(b) for a, b in zip(first, second, strict=True)], videos)
    if size is None:
        return None
    only_first = sum(a and not b for a, b in zip(first, second, strict=True)) / len(first)
    only_second = sum(b and not a for a, b in zip(first, second, strict=True)) / len(first)
    return tango(only_first, only_second, size)


def mean_interval(values: Sequence[float], videos: Sequence[str], bounds: Interval) -> Interval | None:
    """95% interval of a mean of scores: mean +- t[K - 1] * sqrt(v), cut at the bounds of the scale.

    Returns:
        (low, high); None for fewer than two videos, or where all values are alike.
    """
    clustered, plain = _variances(values, videos)
    if clustered is None or plain == 0:
        return None
    mean = math.fsum(values) / len(values)
    # No surer than independent values would be, as in `effective_size`.
    reach = student(len(set(videos)) - 1) * math.sqrt(max(clustered, plain))
    return max(mean - reach, bounds[0]), min(mean + reach, bounds[1])


def effective_size(values: Sequence[float], videos: Sequence[str]) -> float | None:
    """How many independent values these are worth, see above; None for fewer than two videos."""
    clustered, plain = _variances(values, videos)
    if clustered is None:
        return None
    count, groups = len(values), len(set(videos))
    if plain == 0:
        return float(groups)
    paid = (student(count - 1) / student(groups - 1)) ** 2
    return min(count * plain * paid / clustered, count) if clustered > 0 else float(count)


def wilson(share: float, size: float) -> Interval:
    """Wilson's score interval of a share from 0 to 1 among `size` answers, which need not be a whole number."""
    middle = (share + Z**2 / (2 * size)) / (1 + Z**2 / size)
    reach = Z / (1 + Z**2 / size) * math.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    # At the ends exactly 0 and 1, whatever rounding makes of it.
    return (0.0 if share == 0 else max(middle - reach, 0.0)), (1.0 if share == 1 else min(middle + reach, 1.0))


def tango(only_first: float, only_second: float, size: float) -> Interval:
    """Tango's score interval of a difference of two paired shares.

    Args:
        only_first: share of pairs in which only the first is right.
        only_second: share in which only the second is.
        size: number of pairs; need not be a whole number.
    """
    found = only_first - only_second

    def score(difference: float) -> float:
        # The share of "only second" that is most likely where the true difference is this one.
        linear = (2 - found) * difference - only_first - only_second
        constant = only_second * difference * (1 - difference)
        share = (math.sqrt(max(linear**2 + 8 * constant, 0.0)) - linear) / 4
        variance = (2 * share + difference * (1 - difference)) / size
        gap = found - difference
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    low = _crossing(lambda difference: score(difference) - Z, -1.0, found)
    return low, _crossing(lambda difference: score(difference) + Z, found, 1.0)


@lru_cache(maxsize=4096)
def student(freedom: int) -> float:
    """97.5% quantile of Student's t with so many degrees of freedom."""
    if freedom > 1000:
        return Z + (Z**3 + Z) / (4 * freedom)  # its next term is below 1e-5
    angle = _crossing(lambda angle: LEVEL - _within(angle, freedom), 0.0, math.pi / 2)
    return math.sqrt(freedom) * math.tan(angle)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) * tan(angle)): the finite sums 26.7.3 and 26.7.4 of Abramowitz and Stegun."""
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else math.cos(angle) ** odd
    for power in range(odd + 2, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (power - 1) / power
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0, by halving."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _variances(values: Sequence[float], videos: Sequence[str]) -> tuple[float | None, float]:
    """Of the mean: clustered by video (None for fewer than two), and as if the values were independent."""
    sums: dict[str, float] = dict.fromkeys(videos, 0.0)
    count, groups = len(values), len(sums)
    if groups < 2:
        return None, 0.0
    mean = math.fsum(values) / count
    for value, video in zip(values, videos, strict=True):
        sums[video] += value - mean
    clustered = groups / (groups - 1) * math.fsum(one**2 for one in sums.values()) / count**2
    plain = math.fsum((value - mean) ** 2 for value in values) / (count * (count - 1))
    # Equal scores with a mean that rounding moves off them have no spread.
    return clustered, plain if max(values) > min(values) else 0.0
