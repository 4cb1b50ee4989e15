"""From a folder or a manifest to pairs with takes and splits."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...common.text import shorten_list
from ...errors import Ego2ExoError
from .discovery import EGO, Found, find_pairs
from .file import Pair, require_files
from .manifest import read_manifest
from .pair import SPLITS

# Train, val and test by take: no take is in two of them.

_SHARES = "shares that sum to 1, as in train=0.8,val=0.1,test=0.1"


def parse_shares(text: str) -> dict[str, float]:
    """`train=0.8,val=0.2` as a dictionary, in the order of `SPLITS`, without empty shares.

    Raises:
        Ego2ExoError: another name, another number, or a sum that is not 1.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not equals or not 0 <= share <= 1:
            raise Ego2ExoError(f"--split {text}: {part.strip()!r} is no share", _SHARES, "mend the shares")
        if name not in SPLITS:
            raise Ego2ExoError(f"--split {text}: no split is called {name!r}", ", ".join(SPLITS), "name one of these")
        if name in shares:
            raise Ego2ExoError(f"--split {text}: {name} is given twice", _SHARES, "give each split once")
        shares[name] = share
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise Ego2ExoError(f"--split {text} sums to {sum(shares.values()):g}", _SHARES, "mend the shares")
    return {name: shares[name] for name in SPLITS if shares.get(name)}


def split_by_take(pairs: Sequence[Pair], shares: dict[str, float], seed: int = 0) -> list[Pair]:
    """The pairs with their splits drawn by take; the order of the pairs stays.

    The takes are put in the order of sha256(seed, take) and dealt out by count, so that the same takes and seed give
    the same split everywhere. Every share gets at least one take.

    Raises:
        Ego2ExoError: there are fewer takes than shares.
    """
    takes = sorted({pair.take for pair in pairs}, key=lambda take: _rank(seed, take))
    if len(takes) < len(shares):
        raise Ego2ExoError(
            f"{len(takes)} take(s) cannot fill {len(shares)} splits ({', '.join(shares)})",
            "at least as many takes as splits, since a take is in one split only",
            "ask for fewer splits, or tell takes apart with --take-pattern",
        )
    counts = _counts(len(takes), shares)
    names = iter(takes)
    split_of = {next(names): split for split, count in counts.items() for _ in range(count)}
    return [replace(pair, split=split_of[pair.take]) for pair in pairs]


def take_by_pattern(pairs: Sequence[Pair], pattern: str) -> list[Pair]:
    """The pairs with the take that `pattern` finds in the name of each segment.

    Args:
        pattern: a regular expression, searched in the name: its group `take`, else its first group, else all of it.

    Raises:
        Ego2ExoError: no regular expression, or segments in which it finds nothing.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise Ego2ExoError(
            f"--take-pattern {pattern!r} is no regular expression: {error}", r"e.g. ^(\w+)_\d+$"
        ) from error
    matches = [expression.search(pair.segment) for pair in pairs]
    group = "take" if "take" in expression.groupindex else min(1, expression.groups)
    faults = [pair.segment for pair, match in zip(pairs, matches, strict=True) if not match or not match[group]]
    if faults:
        raise Ego2ExoError(
            f"--take-pattern {pattern!r} finds no take in {len(faults)} segment(s): {shorten_list(faults)}",
            "a pattern that matches every segment",
            "widen the pattern",
        )
    return [replace(pair, take=match[group]) for pair, match in zip(pairs, matches, strict=True) if match]


def leaks(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """take -> its splits, for the takes that are in more than one."""
    splits: dict[str, list[str]] = {}
    for pair in pairs:
        names = splits.setdefault(pair.take, [])
        if pair.split not in names:
            names.append(pair.split)
    return {take: names for take, names in splits.items() if len(names) > 1}


def _rank(seed: int, take: str) -> str:
    return hashlib.sha256(f"{seed}\n{take}".encode()).hexdigest()


def _counts(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers of takes: one each first, then by what each share is furthest from."""
    counts = dict.fromkeys(shares, 1)
    for _ in range(total - len(shares)):
        counts[max(shares, key=lambda name: shares[name] * total - counts[name])] += 1
    return counts


def build_from_folder(
    folder: str | Path, pattern: str | None = None, ego_view: str = EGO, skip_unpaired: bool = False
) -> Found:
    """The pairs that the names of files make.

    Raises:
        Ego2ExoError: as `find_pairs`, no complete pair, or unpaired segments without `skip_unpaired`.
    """
    found = find_pairs(folder, pattern, ego_view)
    lines = found.unpaired_lines()
    if lines and (not skip_unpaired or not found.pairs):
        raise Ego2ExoError(
            f"{len(lines)} unpaired segment(s) in {folder}: {shorten_list(lines)}",
            f"an ego video and at least one exo video of each segment ({len(found.pairs)} are complete)",
            "add the missing files" + (", or leave these segments out with --skip-unpaired" if found.pairs else ""),
        )
    return found


def build_from_manifest(
    path: str | Path, folder: str | Path | None = None, unpaired: list[str] | None = None
) -> tuple[list[Pair], bool]:
    """The pairs of a manifest whose files are all there, and whether it says their splits.

    Raises:
        Ego2ExoError: as `read_manifest` and `require_files`, or no complete pair.
    """
    pairs, has_splits = read_manifest(path, folder, unpaired)
    if not pairs:
        raise Ego2ExoError(
            f"{path}: no row is a pair: {shorten_list(unpaired or [])}",
            "rows with ego and exo",
            "add the missing videos",
        )
    require_files(pairs, "mend the paths or remove these rows; --videos DIR says where they count from")
    return pairs, has_splits


def assign(
    pairs: Sequence[Pair], take_pattern: str | None, shares: str | None, seed: int, has_splits: bool = False
) -> list[Pair]:
    """The pairs with takes by pattern and splits by shares, where these are asked for.

    Raises:
        Ego2ExoError: a faulty pattern or share, shares for pairs whose manifest says their splits, or a manifest that
            has a take in several splits.
    """
    if shares and has_splits:
        given = f"--split {shares} for a manifest that has the column `split`"
        raise Ego2ExoError(given, "one of the two", "leave out --split, or the column")
    if take_pattern:
        pairs = take_by_pattern(pairs, take_pattern)
    if shares:
        return split_by_take(pairs, parse_shares(shares), seed)
    leaking = [f"{take} ({', '.join(splits)})" for take, splits in leaks(pairs).items()]
    if leaking:
        raise Ego2ExoError(
            f"{len(leaking)} take(s) are in several splits: {shorten_list(leaking)}",
            "each take in one split: else a student is tested on what it has seen",
            "mend the column `split`, or leave it out and give --split",
        )
    return list(pairs)


def summary(pairs: Sequence[Pair]) -> str:
    """How many pairs, views and takes, and what each split holds."""
    views, takes = sum(len(pair.exo) for pair in pairs), len({pair.take for pair in pairs})
    splits = []
    for split in SPLITS:
        part = [pair for pair in pairs if pair.split == split]
        if part:
            splits.append(f"{split}: {len(part)} pair(s) of {len({pair.take for pair in part})} take(s)")
    return f"{len(pairs)} pair(s), {views} exo view(s), {takes} take(s): {', '.join(splits)}"
