"""How long a run will take and how much it will write, from a few of its batches."""

from __future__ import annotations

from collections.abc import Sequence

from .asking import Tally
from .plan import Task

# Compressed: an id, a half-precision logit and what the container adds.
_BYTES_PER_LOGIT = 4.5


def sample_batches(batches: Sequence[tuple[Task, ...]], clips: int, size: int) -> list[tuple[Task, ...]]:
    """Batches of about `clips` clips, spread evenly over all: clips of one take are alike in length."""
    count = min(max(-(-clips // size), 1), len(batches))
    return [batches[number * len(batches) // count] for number in range(count)]


def estimate(top_k: int, batches: Sequence[tuple[Task, ...]], tallies: Sequence[Tally]) -> str:
    """Time, tokens and bytes for the clips that are left.

    Args:
        top_k: logits kept for each token.
        batches: all that were unfinished when the run began.
        tallies: of the processes.
    """
    timed = [_steady(tally) for tally in tallies if tally.sizes]
    clips, seconds = (sum(part) for part in zip(*timed, strict=True))
    asked = sum(tally.clips for tally in tallies)
    left = sum(map(len, batches)) - asked
    per_clip = seconds / max(clips, 1)
    tokens = left * sum(tally.tokens for tally in tallies) / max(asked, 1)
    lines = [f"timed {clips} clip(s): {per_clip:.3g} s a clip on each of {len(tallies)} process(es)"]
    if not left:
        return "\n".join([*lines, "left: nothing, these were all"])
    lines.append(f"left: {left} clips, about {_duration(left * per_clip / len(tallies))} and {tokens:,.0f} tokens")
    if top_k:
        lines.append(f"top-k logits of these: about {tokens * top_k * _BYTES_PER_LOGIT / 1e9:.3g} GB")
    failed = sum(len(tally.failures) for tally in tallies)
    if failed:
        lines.append(f"{failed} of the clips failed; run without --estimate to have them listed")
    return "\n".join([*lines, "answers so far are kept: the same command without --estimate goes on from here"])


def _duration(seconds: float) -> str:
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.2g} seconds"


def _steady(tally: Tally) -> tuple[int, float]:
    """Clips and seconds without the first batch, which warms everything up, where there are more."""
    start = 1 if len(tally.sizes) > 1 else 0
    return sum(tally.sizes[start:]), sum(tally.seconds[start:])
