"""The flag of the commands that read data files."""

from __future__ import annotations

import argparse
from typing import Any


def add_max_json(parser: Any) -> None:
    """`--max-json-mb`, which :func:`llava_ego2exo.cli.main` obeys."""
    text = "largest JSON or table that is read as a whole, in MiB (default: 512)"
    parser.add_argument("--max-json-mb", type=int, metavar="N", help=text)


def obey(args: argparse.Namespace) -> None:
    """Apply what :func:`add_max_json` read, and take it out of the arguments.

    Raises:
        Ego2ExoError: it is below 1.
    """
    given = vars(args).pop("max_json_mb", None)
    if given is not None:
        from ..common.json_io import set_max_mb

        set_max_mb(given)
