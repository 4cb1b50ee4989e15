"""`llava-ego2exo patch`: the one line that makes a llava load its plugins."""

from __future__ import annotations

import argparse


def add(subparsers: argparse._SubParsersAction) -> None:
    """``patch apply|status|revert [PATH]``"""
    parser = subparsers.add_parser("patch", help="make llava load its plugins, by one line in llava/__init__.py")
    parser.add_argument("action", choices=("apply", "status", "revert"))
    place = "a LLaVA checkout, a `llava` package folder or a site-packages folder; left out: the llava in use"
    parser.add_argument("path", nargs="?", metavar="PATH", help=place)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from .. import patching

    act = {"apply": patching.apply, "status": patching.status, "revert": patching.revert}[args.action]
    print(f"{act(args.path)}: {patching.locate(args.path)}")
    return 0
