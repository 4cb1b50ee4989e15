"""The console script `llava-ego2exo`.

One `add_<name>` function a subcommand, listed in `SUBCOMMANDS`; what a subcommand runs is imported when it runs, so
that ``--help`` stays fast and never loads torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from . import __version__
from .errors import Ego2ExoError

DTYPES = ("float32", "bfloat16", "float16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0 done, 1 an error that the user can mend.

    Args:
        argv: the arguments; None takes the process's own.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except Ego2ExoError as error:
        print(f"llava-ego2exo: error: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand; each sets `run`, a function from the parsed arguments to the exit code."""
    parser = argparse.ArgumentParser(prog="llava-ego2exo", description="Ego-to-exo transfer for LLaVA.")
    parser.add_argument("--version", action="version", version=f"llava-ego2exo {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in SUBCOMMANDS:
        add(subparsers)
    return parser


def add_doctor(subparsers: argparse._SubParsersAction) -> None:
    """``doctor [--json]``"""
    parser = subparsers.add_parser("doctor", help="compare what is installed with what was tested")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from . import doctor

    return doctor.run(as_json=args.json)


def add_patch(subparsers: argparse._SubParsersAction) -> None:
    """``patch apply|status|revert [PATH]``"""
    parser = subparsers.add_parser("patch", help="make llava load its plugins, by one line in llava/__init__.py")
    parser.add_argument("action", choices=("apply", "status", "revert"))
    place = "a LLaVA checkout, a `llava` package folder or a site-packages folder; left out: the llava in use"
    parser.add_argument("path", nargs="?", metavar="PATH", help=place)
    parser.set_defaults(run=_patch)


def _patch(args: argparse.Namespace) -> int:
    from . import patching

    act = {"apply": patching.apply, "status": patching.status, "revert": patching.revert}[args.action]
    print(f"{act(args.path)}: {patching.locate(args.path)}")
    return 0


def add_merge(subparsers: argparse._SubParsersAction) -> None:
    """``merge ADAPTER --base BASE --out DIR [--dtype DTYPE]``"""
    parser = subparsers.add_parser("merge", help="merge a LoRA or QLoRA checkpoint into its base model")
    parser.add_argument("adapter", metavar="ADAPTER", help="the folder that training wrote")
    parser.add_argument("--base", required=True, help="the model that training started from")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the merged model goes")
    parser.add_argument("--dtype", choices=DTYPES, help="the type of the merged weights")
    parser.set_defaults(run=_merge)


def _merge(args: argparse.Namespace) -> int:
    from .merge import merge

    out = merge(args.adapter, args.base, args.out, dtype=args.dtype)
    print(f"merged into {out}; load it with load_pretrained_model({str(out)!r}, None, 'llava_ego2exo')")
    return 0


SUBCOMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (add_doctor, add_patch, add_merge)

if __name__ == "__main__":
    sys.exit(main())
