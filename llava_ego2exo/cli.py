"""The console script `llava-ego2exo`.

Subcommands are in `commands`; what one runs is imported when it runs, so that ``--help`` stays fast and never loads
torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands import ask, eval, maintenance, pairs, plan, serve, targets, teach, watch
from .common.json_io import set_max_mb
from .errors import Ego2ExoError

COMMANDS = (pairs, teach, targets, plan, eval, ask, serve, watch, maintenance)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0 done, 1 a wrong input.

    Args:
        argv: the arguments; None takes the process's own.
    """
    args = build_parser().parse_args(argv)
    try:
        if getattr(args, "max_json_mb", None) is not None:
            set_max_mb(args.max_json_mb)
        return args.run(args)
    except Ego2ExoError as error:
        print(f"llava-ego2exo: error: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand; each sets `run`, a function from the parsed arguments to the exit code."""
    parser = argparse.ArgumentParser(prog="llava-ego2exo", description="Ego-to-exo transfer for LLaVA.")
    parser.add_argument("--version", action="version", version=f"llava-ego2exo {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
