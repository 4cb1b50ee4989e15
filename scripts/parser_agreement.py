"""How often `parse_answer` reads real replies as their authors did, and where it does not, on purpose.

python scripts/parser_agreement.py REPLIES.jsonl          # lines of id, choices, reply, picked (an option's text)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from llava_ego2exo.evaluation.replies.parser import PARSERS
from llava_ego2exo.evaluation.replies.patterns import key_mentions
from llava_ego2exo.evaluation.replies.text import cleaned, option_spans, stemmed


def main() -> int:
    """Print counts, and each reply that is read otherwise with the reason."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("replies", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.replies.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = {name: compare(rows, name) for name in PARSERS}
    print(json.dumps(found, indent=1) if args.json else shown(found))
    return 0


def compare(rows: list[dict], name: str) -> dict:
    """Agreement of one parser with `picked`."""
    read = [PARSERS[name](row["reply"], row["choices"]) for row in rows]
    texts = [key and row["choices"][key] for key, row in zip(read, rows, strict=True)]
    other = [(row, text) for row, text in zip(rows, texts, strict=True) if text != row["picked"]]
    parsed = [(row, text) for row, text in zip(rows, texts, strict=True) if text is not None]
    return {
        "replies": len(rows),
        "parsed": len(parsed),
        "unparsed": len(rows) - len(parsed),
        "of these as picked": sum(text == row["picked"] for row, text in parsed),
        "agreement in percent": round(100 * (1 - len(other) / len(rows)), 2),
        "read otherwise": [
            {"id": row["id"], "reply": row["reply"], "picked": row["picked"], "read": text,
             "why": why(row["reply"], row["choices"], text)}
            for row, text in other
        ],
    }  # fmt: skip


def why(reply: str, choices: Mapping[str, str], read: str | None) -> str:
    """What in a reply leads to another reading, by the parser's own findings."""
    text, options = cleaned(reply), {key: stemmed(option) for key, option in choices.items()}
    keys = {one.key for one in key_mentions(text, choices)}
    by_text = {span.key for span in option_spans(stemmed(text), options)}
    if keys and by_text and not keys & by_text:
        return f"names option {', '.join(sorted(keys))} and the text of option {', '.join(sorted(by_text))}"
    if read is not None and read.lower() not in reply.lower():
        return "the option's text in another inflection"
    return "other"


def shown(found: dict) -> str:
    """As text; what is read otherwise for the first parser alone, the others read most replies otherwise."""
    lines = []
    for name, counts in found.items():
        lines.append(", ".join([f"{name}: {counts['replies']} replies", *(
            f"{key} {value}" for key, value in counts.items() if key not in ("replies", "read otherwise")
        )]))  # fmt: skip
    strict = next(iter(found.values()))["read otherwise"]
    lines += ["", "| id | reply | picked by the authors | read here | why |", "| - | - | - | - | - |"]
    lines += [f"| {r['id']} | `{r['reply']}` | {r['picked']} | {r['read']} | {r['why']} |" for r in strict]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
