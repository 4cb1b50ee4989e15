"""`llava-ego2exo targets`: pairs and teacher answers to LLaVA's training JSON."""

from __future__ import annotations

import argparse

from .flags import add_max_json

SPLITS = ("train", "val", "test")
MIX_RATIO = 0.2


def add(subparsers: argparse._SubParsersAction) -> None:
    """``targets --pairs FILE --answers DIR --out FILE [...]``"""
    parser = subparsers.add_parser("targets", help="make the training file from pairs and the teacher's answers")
    parser.add_argument("--pairs", required=True, metavar="FILE", help="the pairs.jsonl that the teacher was given")
    parser.add_argument("--answers", required=True, metavar="DIR", help="the folder that `teach` wrote")
    parser.add_argument("--out", required=True, metavar="FILE", help="where the training JSON goes")
    parser.add_argument("--split", choices=SPLITS, default="train", help="which pairs (default: train)")
    views = "one exo view of each sample's segment, drawn at random (default), or a sample for each view"
    parser.add_argument("--views", choices=("random", "all"), default="random", help=views)
    turns = "one answer a sample (default), or all answers of a segment as turns of one conversation"
    parser.add_argument("--turns", choices=("one", "all"), default="one", help=turns)
    parser.add_argument("--seed", type=int, default=0, help="of all draws; same seed, same bytes (default: 0)")
    folder = "what the paths in the JSON are relative to (default: the folder of the pairs file)"
    parser.add_argument("--video-folder", metavar="DIR", help=folder)
    flagged = "what to do with empty, repeating and cut answers (default: drop)"
    parser.add_argument("--flagged", choices=("drop", "keep"), default="drop", help=flagged)
    teacher = "which answers to use where several teachers answered into one folder; the error names them"
    parser.add_argument("--teacher", metavar="FINGERPRINT", help=teacher)
    missing = "continue where pairs have no answer, or answers no pair; they are counted and named"
    parser.add_argument("--allow-missing", action="store_true", help=missing)
    add_max_json(parser)
    group = parser.add_argument_group("replay of general data against forgetting")
    group.add_argument("--mix", metavar="JSON", help="a LLaVA training JSON to draw samples from")
    ratio = f"share of replayed samples among all that are written (default: {MIX_RATIO})"
    group.add_argument("--mix-ratio", type=float, metavar="SHARE", help=ratio)
    for kind in ("video", "image"):
        text = f"what the {kind}s of --mix are relative to (default: its folder)"
        group.add_argument(f"--mix-{kind}-folder", metavar="DIR", help=text)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ..distill.targets.replay import Mix
    from ..distill.targets.run import run_targets
    from ..errors import Ego2ExoError

    given = [name for name in ("mix_ratio", "mix_video_folder", "mix_image_folder") if getattr(args, name) is not None]
    if given and args.mix is None:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise Ego2ExoError(f"{flags} without --mix", "--mix JSON with it", "pass the file to replay")
    ratio = MIX_RATIO if args.mix_ratio is None else args.mix_ratio
    mix = Mix(args.mix, ratio, args.mix_video_folder, args.mix_image_folder) if args.mix is not None else None
    report = run_targets(
        args.pairs, args.answers, args.out, split=args.split, views=args.views, turns=args.turns, flagged=args.flagged,
        teacher=args.teacher, seed=args.seed, video_folder=args.video_folder, mix=mix, allow_missing=args.allow_missing,
    )  # fmt: skip
    print(report)
    return 0
