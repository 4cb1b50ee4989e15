"""From a folder or a manifest to pairs with takes and splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import Ego2ExoError
from ..runs.listing import listed
from .finding import EGO, Found, find_pairs
from .manifest import read_manifest
from .pairs import Pair, require_files
from .record import SPLITS
from .splits import leaks, parse_shares, split_by_take, take_by_pattern


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
            f"{len(lines)} unpaired segment(s) in {folder}: {listed(lines)}",
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
            f"{path}: no row is a pair: {listed(unpaired or [])}", "rows with ego and exo", "add the missing videos"
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
            f"{len(leaking)} take(s) are in several splits: {listed(leaking)}",
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
