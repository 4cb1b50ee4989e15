"""`llava-ego2exo plan`: what training would take of a card, and an answer before its first token, without weights."""

from __future__ import annotations

import argparse
import json
import sys

from ..config import BLOCKS


def add(subparsers: argparse._SubParsersAction) -> None:
    """``plan --model CKPT [--frames-upbound N ...] [--bits 4 16] [--card-gb GB] [...]``"""
    text = "estimate the memory that training a checkpoint takes, without loading its weights"
    parser = subparsers.add_parser("plan", help=text)
    parser.add_argument("--model", required=True, metavar="CKPT", help="the LLaVA checkpoint to train from")
    tower = "folder of its vision tower (default: the one that the checkpoint names)"
    parser.add_argument("--vision-tower", metavar="DIR", help=tower)
    frames = "frames of a clip; several give a row each (default: 32)"
    parser.add_argument("--frames-upbound", type=int, nargs="+", default=[32], metavar="N", help=frames)
    bits = "of the language model, 4 or 16; both give rows for both (default: 4)"
    parser.add_argument("--bits", type=int, nargs="+", default=[4], choices=(4, 16), help=bits)
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="clips in a small batch (default: 1)")
    parser.add_argument("--lora-r", type=int, default=64, metavar="R", help="rank of LoRA (default: 64)")
    prompt = "text tokens before the answer (default: 128)"
    parser.add_argument("--prompt-tokens", type=int, default=128, metavar="N", help=prompt)
    parser.add_argument("--answer-tokens", type=int, default=128, metavar="N", help="of an answer (default: 128)")
    sampled = "an on-policy step: the student samples an answer of --answer-tokens, and the base scores it"
    parser.add_argument("--on-policy", action="store_true", help=sampled)
    no = "plan without --gradient_checkpointing"
    parser.add_argument("--no-gradient-checkpointing", action="store_true", help=no)
    card = "memory of the card in GiB (default: that of the first GPU here, if there is one)"
    parser.add_argument("--card-gb", type=float, metavar="GIB", help=card)
    beside = "a column for LLaVA without ego tokens, for comparison"
    parser.add_argument("--beside-llava", action="store_true", help=beside)
    first = "columns for what an answer computes before its first token"
    parser.add_argument("--first-token", action="store_true", help=first)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    group = parser.add_argument_group("ego tokens", "as the training flags --ego2exo_...")
    group.add_argument("--num-tokens", type=int, default=16, metavar="P", help="(default: 16)")
    group.add_argument("--block", default=BLOCKS[0], metavar="|".join(BLOCKS), help=f"(default: {BLOCKS[0]})")
    group.add_argument("--layers", default="all", metavar="all|0,4,8", help="(default: all)")
    group.add_argument("--states", default="keep", metavar="keep|offload|recompute", help="(default: keep)")
    group.add_argument("--no-mlp", action="store_true", help="for --block encoder: without the encoder's MLPs")
    group.add_argument("--no-visual-tokens", action="store_true", help="the ego tokens alone")
    group.add_argument("--pool", metavar="RxC", help="of a video's ordinary visual tokens (default: the checkpoint's)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ..planning.table import plan, plan_text

    def progress(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    rows = plan(args, progress)
    print(json.dumps(rows, indent=1) if args.json else plan_text(args, rows))
    return 0 if all(row["fits"] is not False for row in rows["rows"]) else 1
