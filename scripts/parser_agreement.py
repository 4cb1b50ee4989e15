"""How often replies are read as people read them: real replies as their authors did, and a hand-written table.

python scripts/parser_agreement.py [REPLIES.jsonl]        # lines of id, choices, reply, picked (an option's text)
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from llava_ego2exo.evaluation.replies.parser import PARSERS

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "replies" / "smarthome_ar.jsonl"
TABLE = ROOT / "tests" / "evaluation" / "replies.jsonl"


def main() -> int:
    """Print counts of each parser and kind of reply, and each reply that `parse_answer` reads otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("replies", type=Path, nargs="?", default=REAL, help=f"real replies (default: {REAL})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    real = [{"kind": args.replies.stem, "wanted": row["picked"], **row} for row in _rows(args.replies)]
    table = [{**row, "wanted": row["choices"].get(row["expected"])} for row in _rows(TABLE)]
    found = [{"parser": name, **compare(real, name)} for name in PARSERS] + [{"parser": "strict", **compare(table)}]
    print(json.dumps(found, indent=1) if args.json else shown(found))
    return 0


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def compare(rows: list[dict], name: str = "strict") -> dict:
    """Agreement of one parser with the texts that are wanted; None: no option."""
    read = [row["choices"].get(PARSERS[name](row["reply"], row["choices"])) for row in rows]
    other = [(row, text) for row, text in zip(rows, read, strict=True) if text != row["wanted"]]
    kinds = Counter(row["kind"] for row in rows)
    missed = Counter(row["kind"] for row, _ in other)
    return {
        "replies": len(rows),
        "parsed": sum(text is not None for text in read),
        "read as people do": len(rows) - len(other),
        "agreement in percent": round(100 * (1 - len(other) / len(rows)), 2),
        "kinds": {kind: f"{count - missed[kind]} of {count}" for kind, count in kinds.items()},
        "read otherwise": [
            {"kind": row["kind"], "reply": row["reply"], "by people": row["wanted"], "read": text}
            for row, text in other
        ],
    }  # fmt: skip


def shown(found: list[dict]) -> str:
    """As text; what is read otherwise for the strict parser alone, the other reads most replies otherwise."""
    lines, strict = [], [one for one in found if one["parser"] == "strict"]
    for one in found:
        source = next(iter(one["kinds"])) if len(one["kinds"]) == 1 else TABLE.name
        counts = [f"{name} {one[name]}" for name in ("replies", "parsed", "read as people do", "agreement in percent")]
        lines.append(f"{one['parser']}, {source}: {', '.join(counts)}")
    lines += ["", "| kind | read as people do |", "| - | - |"]
    lines += [f"| {kind} | {count} |" for one in strict for kind, count in one["kinds"].items()]
    lines += ["", "| kind | reply | by people | read here |", "| - | - | - | - |"]
    lines += [
        f"| {row['kind']} | `{row['reply']!r}` | {row['by people']} | {row['read']} |"
        for one in strict for row in one["read otherwise"]
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
