"""Write the parts of README and docs that the code already says; `--check` only compares.

A generated part stands between ``<!-- made: NAME -->`` and ``<!-- end -->``; NAME is a key of `PARTS`. Needs torch and
transformers, but no llava.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields, make_dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llava_ego2exo import doctor  # noqa: E402
from llava_ego2exo.common.text import markdown_table as table  # noqa: E402
from llava_ego2exo.host import arguments, settings  # noqa: E402
from llava_ego2exo.host.hooks.table import FIXES, HOOKS, Seam  # noqa: E402

MARK = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def code(text: object) -> str:
    """As code in Markdown."""
    return f"`{text}`"


def flags(extend: Callable[[type], type]) -> str:
    """Flags that one of LLaVA's argument classes gains."""
    gained = fields(extend(make_dataclass("Empty", [])))
    rows = ((code(f"--{f.name}"), default(f.default), f.metadata["help"]) for f in gained)
    return table(("flag", "default", "what it does"), rows)


def default(value: object) -> str:
    """A flag's default."""
    return "unset" if value is None else code(value)


def inherited() -> str:
    """Flags that are taken from the base checkpoint when they are not given; in brackets a key of another name."""
    named = (code(f"--{flag}") + ("" if flag == key else f" ({code(key)})") for flag, key in settings.INHERITED.items())
    return textwrap.fill(", ".join(named), 118, break_on_hyphens=False)


def tested() -> str:
    """The version table that `llava-ego2exo doctor` compares with."""
    rows = (
        (library.name, ", ".join(library.tested) or "none", "any" if library.minimum == "0" else library.minimum,
         library.use)
        for library in (doctor.PYTHON, *doctor.LIBRARIES)
    )  # fmt: skip
    return table(("", "tested", "from", "for"), rows)


def hosts(seam: Seam) -> str:
    """Which llava a seam is for."""
    return "both" if len(seam.flavours) == 2 else {"next": "LLaVA-NeXT", "pypi": "llava-torch"}[seam.flavours[0]]


def place(seam: Seam) -> str:
    """Module and name that a seam replaces."""
    return code(".".join(part for part in (seam.module, seam.target) if part))


def hooks() -> str:
    """One row for each hook."""
    rows = ((code(s.key), place(s), hosts(s), code(s.wrap), s.why) for s in HOOKS)
    return table(("key", "replaced", "llava", "by (below `host/`)", "why"), rows)


def fixes() -> str:
    """One row for each fix, which may replace several names: what goes wrong without it."""
    by_key: dict[str, list[Seam]] = {}
    for seam in FIXES:
        by_key.setdefault(seam.key, []).append(seam)
    rows = (
        (code(key), place(parts[0]) + (f" and {len(parts) - 1} more" if parts[1:] else ""),
         max(map(hosts, parts)), code(parts[0].wrap.split(":")[0]),
         "; ".join(dict.fromkeys(part.why for part in parts)), "; ".join(dict.fromkeys(p.remove_when for p in parts)))
        for key, parts in by_key.items()
    )  # fmt: skip
    head = ("key", "replaced", "llava", "by (below `host/`)", "what goes wrong without it", "remove when")
    return table(head, rows)


PARTS: dict[str, Callable[[], str]] = {
    "flags": lambda: flags(arguments.with_model_flags),
    "training_flags": lambda: flags(arguments.with_run_flags),
    "distilling_flags": lambda: flags(arguments.with_distilling_flags),
    "video_flags": lambda: flags(arguments.with_video_flags),
    "reading_flags": lambda: flags(arguments.with_reading_flags),
    "inherited": inherited,
    "tested": tested,
    "hooks": hooks,
    "fixes": fixes,
}


def rewritten(text: str) -> str:
    """A document with its generated parts anew."""
    return MARK.sub(lambda mark: f"{mark[1]}{PARTS[mark[2]]()}\n{mark[3]}", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when something is out of date")
    check, stale = parser.parse_args().check, []
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = file.read_text(encoding="utf-8")
        new = rewritten(old)
        if new != old:
            stale.append(file.relative_to(ROOT).as_posix())
            if not check:
                file.write_text(new, encoding="utf-8")
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
