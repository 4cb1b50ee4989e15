"""`llava-ego2exo teach`: a LLaVA teacher answers queries about the ego clips of pairs."""

from __future__ import annotations

import argparse

from ..errors import Ego2ExoError
from .flags import add_model_flags, add_reading_flags, add_served_flags, job_values, print_report

SPLITS = ("train", "val", "test", "all")
# Flags that make no sense where nothing is asked.
_ASKING = ("model", "model_base", "queries", "top_k", "estimate")


def add(subparsers: argparse._SubParsersAction) -> None:
    """``teach --pairs FILE --model CKPT --out DIR [...]``"""
    text = "let a teacher answer queries about the ego clips of pairs"
    many = "Several GPUs: torchrun --nproc_per_node 8 -m llava_ego2exo teach ..."
    parser = subparsers.add_parser("teach", help=text, epilog=f"{many} The same command resumes a stopped run.")
    parser.add_argument("--pairs", required=True, metavar="FILE", help="a pairs.jsonl")
    parser.add_argument("--model", metavar="CKPT", help="the teacher: a LLaVA checkpoint, or openai:URL#NAME")
    published = "in place of --model: published answers to take over, captions_proc_<i>.json or their folder"
    parser.add_argument("--import", dest="published", metavar="FILE", nargs="+", help=published)
    parser.add_argument("--out", required=True, metavar="DIR", help="where answers.jsonl goes")
    parser.add_argument("--split", choices=SPLITS, default="train", help="which pairs (default: train)")
    group = parser.add_argument_group("teacher")
    base = "the model that the teacher was trained from, where CKPT is a LoRA or projector folder"
    group.add_argument("--model-base", metavar="BASE", help=base)
    add_model_flags(group)
    add_reading_flags(group)
    add_served_flags(group)
    group = parser.add_argument_group("questions and answers")
    queries = 'a JSON file {"kind": ["wording", ...], ...} (default: descriptive, temporal, spatial)'
    group.add_argument("--queries", metavar="FILE", help=queries)
    group.add_argument("--seed", type=int, default=0, help="of the wording drawn for each clip (default: 0)")
    longest = "most tokens of an answer; one that reaches it is flagged (default: 256)"
    group.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help=longest)
    top = "keep the K largest logits of each answer token, for distillation without the teacher (default: none)"
    group.add_argument("--top-k", type=int, default=0, metavar="K", help=top)
    group = parser.add_argument_group("run")
    size = "clips that go through the teacher together, each with all its queries (default: 4)"
    group.add_argument("--batch-size", type=int, default=4, metavar="CLIPS", help=size)
    group.add_argument("--workers", type=int, default=4, metavar="N", help="threads that read clips (default: 4)")
    failures = "clips that may fail before the command counts as failed; the others are answered (default: 0)"
    group.add_argument("--max-failures", type=int, default=0, metavar="N", help=failures)
    few = "time N clips (default: 16), report how long the others will take, and stop; their answers are kept"
    group.add_argument("--estimate", type=_positive, nargs="?", const=16, default=0, metavar="N", help=few)
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    asking = [f"--{name.replace('_', '-')}" for name in _ASKING if getattr(args, name)]
    if args.published and asking:
        raise Ego2ExoError(f"--import with {', '.join(asking)}", "answers that are there, or a teacher", "drop one")
    if args.published:
        from ..distill.teach.captions import import_captions

        return print_report(lambda: (import_captions(args.published, args.pairs, args.out, args.split), 0))
    if not args.model:
        raise Ego2ExoError("neither --model nor --import", "--model CKPT, or --import FILE", "name the teacher")
    from ..distill.teach.run import TeachJob, teach

    job = TeachJob(**job_values(args, TeachJob))
    return print_report(lambda: (teach(job), 0))
