"""`llava-ego2exo merge`: an adapter into its base."""

from __future__ import annotations

import argparse

DTYPES = ("float32", "bfloat16", "float16")


def add(subparsers: argparse._SubParsersAction) -> None:
    """``merge ADAPTER --base BASE --out DIR [--dtype DTYPE]``"""
    parser = subparsers.add_parser("merge", help="merge a LoRA or QLoRA checkpoint into its base model")
    parser.add_argument("adapter", metavar="ADAPTER", help="the folder that training wrote")
    parser.add_argument("--base", required=True, help="the model that training started from")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the merged model goes")
    parser.add_argument("--dtype", choices=DTYPES, help="the type of the merged weights")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ..merge import merge

    out = merge(args.adapter, args.base, args.out, dtype=args.dtype)
    print(f"merged into {out}; load it with load_pretrained_model({str(out)!r}, None, 'llava_ego2exo')")
    return 0
