"""The console script `llava-ego2exo`.

One file a subcommand in `commands`, listed in `SUBCOMMANDS`; what a subcommand runs is imported when it runs, so that
``--help`` stays fast and never loads torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands import doctor, eval, merge, pairs, patch, plan, targets, teach
from .commands.flags import obey
from .errors import Ego2ExoError

SUBCOMMANDS = (doctor, patch, pairs, teach, targets, plan, merge, eval)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0 done, 1 an error that the user can mend.

    Args:
        argv: the arguments; None takes the process's own.
    """
    args = build_parser().parse_args(argv)
    try:
        obey(args)
        return args.run(args)
    except Ego2ExoError as error:
        print(f"llava-ego2exo: error: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand; each sets `run`, a function from the parsed arguments to the exit code."""
    parser = argparse.ArgumentParser(prog="llava-ego2exo", description="Ego-to-exo transfer for LLaVA.")
    parser.add_argument("--version", action="version", version=f"llava-ego2exo {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in SUBCOMMANDS:
        command.add(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
