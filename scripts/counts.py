"""Lines and files of package, tests, scripts and documents, and the largest folders and files.

python scripts/counts.py
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "package": "llava_ego2exo/**/*.py", "tests": "tests/**/*.py", "scripts (Python)": "scripts/*.py",
    "scripts (shell)": "scripts/*.sh", "documents": "docs/**/*.md",
}  # fmt: skip


def lines_of(pattern: str) -> Counter[Path]:
    """Lines of each file."""
    return Counter({file.relative_to(ROOT): len(file.read_text().splitlines()) for file in ROOT.glob(pattern)})


def main() -> None:
    """Print the counts."""
    found = {name: lines_of(pattern) for name, pattern in PARTS.items()}
    for name, files in found.items():
        print(f"{name:<18}{files.total():>7} lines{len(files):>6} files")
    for name in ("package", "tests"):
        modules = Counter(file.parent for file in found[name] if file.name != "__init__.py")
        print(f"\nlargest folders of the {name}: {', '.join(f'{f} {n}' for f, n in modules.most_common(5))}")
        print("largest files:", ", ".join(f"{file} {n}" for file, n in found[name].most_common(8)))


if __name__ == "__main__":
    main()
