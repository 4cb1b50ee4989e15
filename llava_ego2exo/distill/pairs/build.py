"""Pairs of a folder or a manifest, with their takes and splits."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...common.text import shorten_list
from ...errors import Ego2ExoError
from .discovery import FoundPairs, find_pairs
from .file import require_files
from .manifest import pairs_of_manifest
from .pair import SPLITS, Pair


def build_from_folder(
    folder: str | Path, pattern: str | None = None, ego_view: str | None = None, skip_unpaired: bool = False,
    shared_exo: bool = False,
) -> FoundPairs:  # fmt: skip
    """The pairs of a folder, by the names of its files; arguments as those of `find_pairs`."""
    found = find_pairs(folder, pattern, ego_view, shared_exo)
    lines = found.unpaired_lines()
    if lines and (not skip_unpaired or not found.pairs):
        raise Ego2ExoError(
            f"{len(lines)} unpaired segment(s) in {folder}: {shorten_list(lines)}",
            f"an ego video and at least one exo video of each segment ({len(found.pairs)} are complete)",
            "add the missing files" + (", or skip these segments with --skip-unpaired" if found.pairs else ""),
        )
    return found


def build_from_manifest(
    path: str | Path, folder: str | Path | None = None, unpaired: list[str] | None = None
) -> tuple[list[Pair], bool]:
    """The pairs of a manifest, whose files all exist, and whether it has a column `split`."""
    pairs, has_splits = pairs_of_manifest(path, folder, unpaired)
    if not pairs:
        given = f"{path}: no row is a pair: {shorten_list(unpaired or [])}"
        raise Ego2ExoError(given, "rows with ego and exo", "add the missing videos")
    require_files(pairs, "fix the paths or remove these rows; --videos DIR sets the folder that they are relative to")
    return pairs, has_splits


def assign(
    pairs: Sequence[Pair], take_pattern: str | None, shares: str | None, seed: int, has_splits: bool = False
) -> list[Pair]:
    """The pairs with takes by pattern and splits by shares, each where given.

    Raises:
        Ego2ExoError: a faulty pattern or share, shares for pairs that have splits, or takes in several splits.
    """
    if shares and has_splits:
        given = f"--split {shares} for pairs with splits, by a column `split` or by --pattern"
        raise Ego2ExoError(given, "one of the two", "drop --split, or the column or the pattern's group `split`")
    if take_pattern:
        pairs = take_by_pattern(pairs, take_pattern)
    if shares:
        return split_by_take(pairs, parse_shares(shares), seed)
    leaking = [f"{take} ({', '.join(splits)})" for take, splits in leaks(pairs).items()]
    if leaking:
        raise Ego2ExoError(
            f"{len(leaking)} take(s) are in several splits: {shorten_list(leaking)}",
            "each take in one split: otherwise a student is tested on videos it was trained on",
            "fix the column or folder of the split, or drop column `split` or the pattern's group and pass --split",
        )
    return list(pairs)


def parse_shares(text: str) -> dict[str, float]:
    """`train=0.8,val=0.2` as a dictionary, in the order of `SPLITS`, without empty shares."""
    parts = [part.partition("=") for part in text.split(",")]
    try:
        shares = {name.strip(): float(share) for name, _, share in parts}
    except ValueError:
        shares = {}
    right = len(shares) == len(parts) and shares.keys() <= set(SPLITS) and all(0 <= s <= 1 for s in shares.values())
    if not right or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        allowed = f"shares of {', '.join(SPLITS)} that sum to 1, as in train=0.8,val=0.1,test=0.1"
        raise Ego2ExoError(f"--split {text}", allowed, "fix the shares")
    return {name: shares[name] for name in SPLITS if shares.get(name)}


def split_by_take(pairs: Sequence[Pair], shares: dict[str, float], seed: int = 0) -> list[Pair]:
    """The pairs, in their order, with splits drawn by take.

    Takes are sorted by sha256(seed, take) and dealt out by count: the same takes and seed give the same split on every
    machine. Every share gets at least one take.
    """
    takes = sorted({pair.take for pair in pairs}, key=lambda take: hashlib.sha256(f"{seed}\n{take}".encode()).digest())
    if len(takes) < len(shares):
        raise Ego2ExoError(
            f"{len(takes)} take(s) cannot fill {len(shares)} splits ({', '.join(shares)})",
            "at least as many takes as splits, since a take is in one split only",
            "ask for fewer splits, or distinguish takes with --take-pattern",
        )
    counts = dict.fromkeys(shares, 1)
    for _ in range(len(takes) - len(shares)):  # to the share that is furthest below its size
        counts[max(shares, key=lambda name: shares[name] * len(takes) - counts[name])] += 1
    names = iter(takes)
    split_of = {next(names): split for split, count in counts.items() for _ in range(count)}
    return [replace(pair, split=split_of[pair.take]) for pair in pairs]


def take_by_pattern(pairs: Sequence[Pair], pattern: str) -> list[Pair]:
    """The pairs with takes found in the segments' names: the pattern's group `take`, else its first, else the match."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        given = f"--take-pattern {pattern!r} is no regular expression: {error}"
        raise Ego2ExoError(given, r"e.g. ^(\w+)_\d+$") from error
    group = "take" if "take" in expression.groupindex else min(1, expression.groups)
    takes = [match[group] if (match := expression.search(pair.segment)) else "" for pair in pairs]
    faults = [pair.segment for pair, take in zip(pairs, takes, strict=True) if not take]
    if faults:
        raise Ego2ExoError(
            f"--take-pattern {pattern!r} finds no take in {len(faults)} segment(s): {shorten_list(faults)}",
            "a pattern that matches every segment",
            "widen the pattern",
        )
    return [replace(pair, take=take) for pair, take in zip(pairs, takes, strict=True)]


def leaks(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """take -> its splits, for takes in more than one."""
    splits: dict[str, dict[str, None]] = {}
    for pair in pairs:
        splits.setdefault(pair.take, {})[pair.split] = None
    return {take: list(names) for take, names in splits.items() if len(names) > 1}


def summary(pairs: Sequence[Pair]) -> str:
    """How many pairs, views and takes there are, and the counts of each split."""
    views, takes = sum(len(pair.exo) for pair in pairs), len({pair.take for pair in pairs})
    splits = []
    for split in SPLITS:
        part = [pair for pair in pairs if pair.split == split]
        if part:
            splits.append(f"{split}: {len(part)} pair(s) of {len({pair.take for pair in part})} take(s)")
    return f"{len(pairs)} pair(s), {views} exo view(s), {takes} take(s): {', '.join(splits)}"
