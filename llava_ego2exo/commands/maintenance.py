"""`llava-ego2exo doctor`, `patch` and `merge`: versions, the plugin line in LLaVA, adapters merged into their base."""

from __future__ import annotations

import argparse

from .flags import DTYPES


def add(subparsers: argparse._SubParsersAction) -> None:
    """``doctor [--json]``, ``patch apply|status|revert [PATH]`` and ``merge ADAPTER --base BASE --out DIR``"""
    parser = subparsers.add_parser("doctor", help="compare what is installed with what was tested")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_doctor)

    parser = subparsers.add_parser("patch", help="make llava load its plugins, by one line in llava/__init__.py")
    parser.add_argument("action", choices=("apply", "status", "revert"))
    place = "a LLaVA checkout, a `llava` package folder or a site-packages folder (default: the llava in use)"
    parser.add_argument("path", nargs="?", metavar="PATH", help=place)
    parser.set_defaults(run=_patch)

    parser = subparsers.add_parser("merge", help="merge a LoRA or QLoRA checkpoint into its base model")
    parser.add_argument("adapter", metavar="ADAPTER", help="the folder that training wrote")
    parser.add_argument("--base", required=True, help="the model that training started from")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the merged model goes")
    parser.add_argument("--dtype", choices=DTYPES, help="the type of the merged weights")
    parser.set_defaults(run=_merge)


def _doctor(args: argparse.Namespace) -> int:
    from .. import doctor

    return doctor.run(as_json=args.json)


def _patch(args: argparse.Namespace) -> int:
    from .. import patching

    act = {"apply": patching.apply, "status": patching.status, "revert": patching.revert}[args.action]
    print(f"{act(args.path)}: {patching.locate(args.path)}")
    return 0


def _merge(args: argparse.Namespace) -> int:
    from ..host.checkpoint.config import read_config
    from ..host.loader import loader_call
    from ..host.merge import merge

    out = str(merge(args.adapter, args.base, args.out, dtype=args.dtype))
    dtype = args.dtype or read_config(out)["torch_dtype"]
    print(f"merged into {out}; load it with:\n{loader_call(out, None, dtype)}")
    return 0
