"""`llava-ego2exo doctor`: what is installed against what was tested."""

from __future__ import annotations

import argparse


def add(subparsers: argparse._SubParsersAction) -> None:
    """``doctor [--json]``"""
    parser = subparsers.add_parser("doctor", help="compare what is installed with what was tested")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from .. import doctor

    return doctor.run(as_json=args.json)
