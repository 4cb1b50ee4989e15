"""Which commit a checkout is at."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit_of(folder: Path) -> str | None:
    """Commit of the checkout that a package folder lies in directly; None where it is installed otherwise."""
    if not (folder.parent / ".git").exists():  # not further up: site-packages may lie in another project's checkout
        return None
    command = ["git", "-C", str(folder.parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
