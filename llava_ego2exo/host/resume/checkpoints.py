"""Which `checkpoint-N` of a run are complete: each is written beside, listed in a file of its own, and renamed last."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...errors import Ego2ExoError

MANIFEST = "ego2exo_checkpoint.json"
UNFINISHED = "unfinished"
_ASIDE = "damaged-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class CheckpointScan:
    """The checkpoints in a run's folder.

    Args:
        complete: checkpoints that can be resumed, oldest first.
        damaged: checkpoints that cannot, each with the reason.
        unfinished: names of checkpoints that were being written when a run ended.
    """

    complete: tuple[Path, ...]
    damaged: tuple[tuple[Path, str], ...]
    unfinished: tuple[str, ...]

    @property
    def last(self) -> Path | None:
        """The checkpoint that a run resumes."""
        return self.complete[-1] if self.complete else None


def scan(folder: str | Path, required: Sequence[str] = ()) -> CheckpointScan:
    """Check every checkpoint in a run's folder.

    Args:
        folder: `--output_dir`; may be missing.
        required: files that a checkpoint without a list of its own must have.
    """
    root = Path(folder)
    found = [path for path in root.glob("checkpoint-*") if path.name.split("-", 1)[1].isdigit() and path.is_dir()]
    numbered = sorted(found, key=lambda path: int(path.name.split("-")[1]))
    reasons = {path: _defect(path, required) for path in numbered}
    return CheckpointScan(
        tuple(path for path in numbered if reasons[path] is None),
        tuple((path, reason) for path, reason in reasons.items() if reason is not None),
        tuple(sorted(path.name for path in (root / UNFINISHED).glob("*"))),
    )


def _defect(folder: Path, required: Sequence[str]) -> str | None:
    """Why a checkpoint is not complete; None where it is."""
    listed = read_manifest(folder)
    if listed is None:
        if (folder / MANIFEST).exists():
            return f"its {MANIFEST} is damaged"
        missing = [name for name in (*required, "trainer_state.json") if not (folder / name).is_file()]
        return f"it has no {missing[0]}" if missing else None
    for name, size in listed["files"].items():
        file = folder / name
        if not file.is_file():
            return f"it has no {name}"
        if file.stat().st_size != size:
            return f"its {name} has {file.stat().st_size} bytes of {size}"
    return None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A checkpoint's list of its files and its run's signature; None where there is none to be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return found if isinstance(found["files"], dict) and isinstance(found["run"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def commit(part: Path, target: Path, run: dict[str, Any]) -> None:
    """List a checkpoint's files in it, wait for the disk, and move it to its place.

    A process that is killed before the last line leaves no `checkpoint-N`, and after it a complete one.

    Args:
        part: the folder as it was written.
        target: `checkpoint-N`; one that is there already is replaced.
        run: its signature.
    """
    files = sorted(path for path in part.rglob("*") if path.is_file() and path.name != MANIFEST)
    sizes = {path.relative_to(part).as_posix(): path.stat().st_size for path in files}
    for path in files:
        _sync(path)
    write_atomic(part / MANIFEST, json.dumps({"run": run, "files": sizes}, indent=1) + "\n")
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def quarantine(folder: str | Path, found: CheckpointScan) -> list[str]:
    """Delete an unfinished checkpoint and rename damaged ones, as LLaVA resumes the highest `checkpoint-*`.

    Returns:
        What was done, as lines.
    """
    lines = []
    then = "the run starts from step 0" if found.last is None else f"the run resumes {found.last.name}"
    if found.unfinished:
        shutil.rmtree(Path(folder, UNFINISHED), ignore_errors=True)
        lines.append(f"{', '.join(found.unfinished)} was being written when the run ended; {then}")
    for path, reason in found.damaged:
        aside = path.with_name(_ASIDE + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        lines.append(f"{path.name} is damaged ({reason}) and was renamed to {aside.name}; {then}")
    return lines


def full_disk(what: str, error: BaseException, folder: str | Path) -> Ego2ExoError | None:
    """The error that ends a run because `folder` takes no more bytes; None where `error` has another reason.

    Args:
        what: could not be written.
        error: of the library that wrote. torch and safetensors drop the error number: the disk is tried once more.
        folder: the run's.
    """
    reason = error if isinstance(error, OSError) else None
    if reason is None:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(1 << 20))
        except OSError as again:
            reason = again
    if reason is None or reason.errno not in _FULL:
        return None
    last = scan(folder).last
    left, then = "no complete checkpoint is left", "starts from step 0"
    if last is not None:
        left, then = f"{last.name} is complete", f"resumes {last.name}"
    return Ego2ExoError(
        f"{what} could not be written: {os.strerror(reason.errno)}; {left}",
        "space for one more checkpoint than --save_total_limit keeps",
        f"free some space and rerun the same command: it {then}",
    )
