"""`llava-ego2exo pairs`: find, cut and check paired videos."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..errors import Ego2ExoError
from ..video.limits import VideoLimits
from .flags import add_max_json, add_video_limits


def add(subparsers: argparse._SubParsersAction) -> None:
    """``pairs build | egoexo4d | cut | check``"""
    parser = subparsers.add_parser("pairs", help="find, cut and check paired ego and exo videos")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    parser = commands.add_parser("build", help="write pairs.jsonl from the names of files, or from a manifest")
    parser.add_argument("--videos", metavar="DIR", help="folder of videos; with --manifest: where its paths count from")
    parser.add_argument("--out", required=True, metavar="FILE", help="the pairs.jsonl to write")
    parser.add_argument("--manifest", metavar="FILE", help="a CSV or TSV file that lists the pairs")
    pattern = "how paths below DIR are built: a template such as '{take}/{segment}_{view}', or a regular expression "
    pattern += "with groups of these names and `split`, or ego-exo4d; default: <segment>_ego and <segment>_exo<N>"
    parser.add_argument("--pattern", help=pattern)
    ego = "what {view} reads for the ego camera, or for several, with commas between (ego)"
    parser.add_argument("--ego-view", metavar="NAMES", help=ego)
    _add_shared(parser, "make a pair of each ego camera of a segment, with the same exo videos")
    skip = "skip segments, or rows of a manifest, that lack their ego or exo"
    parser.add_argument("--skip-unpaired", action="store_true", help=skip)
    take = "regular expression that finds the take in a segment's name; default: each segment is a take"
    parser.add_argument("--take-pattern", metavar="REGEX", help=take)
    add_max_json(parser)
    _add_splits(parser, "all pairs are for training")
    parser.set_defaults(run=_build)

    parser = commands.add_parser("egoexo4d", help="cut the keystep segments of an Ego-Exo4D download into pairs")
    parser.add_argument("--root", required=True, metavar="DIR", help="the download: takes.json, annotations/, takes/")
    parser.add_argument("--out", required=True, metavar="DIR", help="where cuts, pairs.jsonl and missing.txt go")
    parser.add_argument("--views", default="all", help="all, best (the take's best_exo), or cameras: cam01,cam03 (all)")
    parser.add_argument("--takes", metavar="NAMES", help="only these takes, separated by commas")
    parser.add_argument("--scenarios", metavar="NAMES", help="only these scenarios, separated by commas")
    parser.add_argument("--min-seconds", type=float, default=0.0, metavar="S", help="shortest segment (0)")
    longest = "longest segment (no limit)"
    parser.add_argument("--max-seconds", type=float, default=float("inf"), metavar="S", help=longest)
    parser.add_argument("--no-cut", action="store_true", help="only write pairs.jsonl, with times in the long videos")
    add_max_json(parser)
    _add_splits(parser, "the splits of the annotation files")
    _add_cutting(parser)
    parser.set_defaults(run=_egoexo4d)

    parser = commands.add_parser("cut", help="cut the segments of a pairs.jsonl into files of their own")
    parser.add_argument("--pairs", required=True, metavar="FILE", help="a pairs.jsonl with start_s and end_s")
    parser.add_argument("--out", required=True, metavar="DIR", help="where cuts and the new pairs.jsonl go")
    _add_cutting(parser)
    parser.set_defaults(run=_cut)

    parser = commands.add_parser("check", help="decode every file and report faults; exit code 1 if any")
    parser.add_argument("--pairs", required=True, metavar="FILE", help="the pairs.jsonl")
    _add_reading(parser, "seconds that lengths may differ (0.5)", "files")
    parser.add_argument("--report", metavar="FILE", help="also write all findings as JSON")
    _add_shared(parser, "ego cameras of a take may have the same exo videos, as `build --shared-exo` pairs them")
    parser.add_argument("--write-clean", metavar="FILE", help="also write a pairs.jsonl without what is at fault")
    parser.set_defaults(run=_check)


def _add_shared(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--shared-exo", action="store_true", help=text)


def _add_splits(parser: argparse.ArgumentParser, default: str) -> None:
    text = f"by take, as in train=0.8,val=0.1,test=0.1; default: {default}"
    parser.add_argument("--split", metavar="SHARES", help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of --split (0)")


def _add_cutting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crf", type=int, default=18, help="quality of x264, 0 (lossless) to 51 (18)")
    _add_reading(parser, "seconds that an end may lack (0.5)", "cuts")


def _add_reading(parser: argparse.ArgumentParser, tolerance: str, what: str) -> None:
    parser.add_argument("--tolerance", type=float, default=0.5, metavar="S", help=tolerance)
    workers = f"{what} at a time (0: one a processor, up to 8)"
    parser.add_argument("--workers", type=int, default=0, metavar="N", help=workers)
    add_video_limits(parser, frames=False)


def _build(args: argparse.Namespace) -> int:
    from ..common.files import require_writable
    from ..common.text import shorten_list
    from ..distill.pairs import build
    from ..distill.pairs.file import write_pairs

    by_name = [f"--{name}" for name in ("pattern", "ego-view", "shared-exo") if getattr(args, name.replace("-", "_"))]
    if not (args.videos or args.manifest) or (args.manifest and by_name):
        given = f"{', '.join(by_name)} with --manifest" if args.manifest else "neither --videos nor --manifest"
        raise Ego2ExoError(given, "--videos DIR, perhaps with --pattern; or --manifest FILE", "pass one of them")
    if args.manifest:
        unpaired = [] if args.skip_unpaired else None
        pairs, has_splits = build.build_from_manifest(args.manifest, args.videos, unpaired)
        left_out = {"unpaired row(s) left out": unpaired}
    else:
        found = build.build_from_folder(args.videos, args.pattern, args.ego_view, args.skip_unpaired, args.shared_exo)
        pairs, has_splits = found.pairs, found.has_splits
        left_out = {"unpaired segment(s) left out": found.unpaired_lines()}
        left_out["other video(s)"] = found.other
    for what, lines in left_out.items():
        if lines:
            print(f"{len(lines)} {what}: {shorten_list(lines)}")
    require_writable(args.out, "--out")
    pairs = build.assign(pairs, args.take_pattern, args.split, args.seed, has_splits)
    print(f"{write_pairs(args.out, pairs)}: {build.summary(pairs)}")
    shared = " --shared-exo" if args.shared_exo else ""
    print(f"check the files next: llava-ego2exo pairs check --pairs {args.out}{shared}")
    return 0


def _egoexo4d(args: argparse.Namespace) -> int:
    from ..common.files import require_writable
    from ..distill.pairs.build import assign, summary
    from ..distill.pairs.egoexo4d import Filters, read_takes, write_missing
    from ..distill.pairs.file import write_pairs

    require_writable(f"{args.out}/pairs.jsonl", "--out")
    views = args.views if args.views in ("all", "best") else _names(args.views)
    takes, scenarios = _names(args.takes), _names(args.scenarios)
    found = read_takes(args.root, Filters(views, takes, scenarios, args.min_seconds, args.max_seconds))
    for line in found.lines():
        print(line)
    listing = write_missing(args.out, found.missing)
    if found.missing:
        print(f"missing videos are listed in {listing}")
    pairs = assign(found.pairs, None, args.split, args.seed)
    print(f"found {summary(pairs)}")
    if not args.no_cut:
        return _cut_and_write(pairs, args)
    print(f"wrote {write_pairs(f'{args.out}/pairs.jsonl', pairs)}")
    return 0


def _cut(args: argparse.Namespace) -> int:
    from ..distill.pairs.file import read_pairs

    if os.path.realpath(args.pairs) == os.path.realpath(f"{args.out}/pairs.jsonl"):
        raise Ego2ExoError(f"--out {args.out} would overwrite {args.pairs}", "another folder", "pass another --out")
    return _cut_and_write(read_pairs(args.pairs), args)


def _cut_and_write(pairs: list[Any], args: argparse.Namespace) -> int:
    from ..distill.pairs.build import summary
    from ..distill.pairs.cut import cut_pairs
    from ..distill.pairs.file import write_pairs

    limits = VideoLimits.from_object(args)
    result = cut_pairs(pairs, args.out, args.crf, args.tolerance, args.workers, limits=limits)
    print(f"{result.made} cut(s) made, {result.kept} kept, {result.whole} whole video(s) need none")
    for line in result.failures:
        print(f"failed: {line}")
    if not result.pairs:
        raise Ego2ExoError(f"all of {len(pairs)} pair(s) failed", "", "see the lines above")
    print(f"{write_pairs(f'{args.out}/pairs.jsonl', result.pairs)}: {summary(result.pairs)}")
    if result.failures:
        print(f"{len(result.failures)} cut(s) failed; {len(pairs) - len(result.pairs)} pair(s) left out")
    return 1 if result.failures else 0


def _check(args: argparse.Namespace) -> int:
    from ..distill.pairs.check import run_check

    return run_check(
        args.pairs, print, tolerance_s=args.tolerance, limits=VideoLimits.from_object(args), workers=args.workers,
        report_to=args.report, write_clean=args.write_clean, shared_exo=args.shared_exo,
    )  # fmt: skip


def _names(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(name.strip() for name in text.split(",") if name.strip())
