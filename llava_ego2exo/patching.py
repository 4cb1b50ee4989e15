"""Apply, inspect and revert the one-line patch that makes `llava` load its plugins.

The file is changed only when its content is known, so that a llava someone else has edited is never damaged::

    llava-ego2exo patch apply            # the llava that Python would import
    llava-ego2exo patch revert ~/LLaVA-NeXT
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from .errors import Ego2ExoError

PATCH_NAME = "llava-plugins.patch"
PATCHED, UNPATCHED = "patched", "unpatched"
# All of `llava/__init__.py`, the same in LLaVA-NeXT 1.7.0.dev0 and in llava-torch 1.2.2.post1.
UPSTREAM = [b"from .model import LlavaLlamaForCausalLM\n"]
_PLACES = "a LLaVA checkout, a `llava` package folder, or a site-packages folder that holds one"


def locate(path: str | os.PathLike[str] | None = None) -> Path:
    """The `llava/__init__.py` that PATH means; llava is not imported.

    Args:
        path: a LLaVA checkout, a `llava` package folder, or a site-packages folder; None finds the llava that
            ``import llava`` would load.

    Raises:
        Ego2ExoError: there is no llava there.
    """
    if path is None:
        return _importable()
    folder = Path(path).expanduser()
    candidates = [folder / "llava/__init__.py"]
    if folder.absolute().name == "llava":
        candidates.append(folder / "__init__.py")
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise Ego2ExoError(f"no llava at {folder}", _PLACES, "check the path, or leave it out for the llava in use")


def status(path: str | os.PathLike[str] | None = None) -> str:
    """``"patched"`` or ``"unpatched"``.

    Args:
        path: see :func:`locate`.

    Raises:
        Ego2ExoError: there is no llava, or its `__init__.py` is neither upstream's nor ours.
    """
    file = locate(path)
    return _recognise(file, _read(file))


def apply(path: str | os.PathLike[str] | None = None) -> str:
    """Add the plugin line: ``"patched"``, or ``"already patched"`` when nothing had to be written.

    Args:
        path: see :func:`locate`.

    Raises:
        Ego2ExoError: there is no llava, its `__init__.py` is not recognised, or it cannot be written.
    """
    file = locate(path)
    data = _read(file)
    if _recognise(file, data) == PATCHED:
        return "already patched"
    position, added = _patch()
    if b"\r\n" in data:  # a checkout with autocrlf keeps its newline style
        added = [line.replace(b"\n", b"\r\n") for line in added]
    lines = data.splitlines(keepends=True)
    _write(file, b"".join(lines[:position] + added + lines[position:]))
    return PATCHED


def revert(path: str | os.PathLike[str] | None = None) -> str:
    """Take the plugin line out again: ``"unpatched"``, or ``"already unpatched"`` when nothing had to be written.

    Args:
        path: see :func:`locate`.

    Raises:
        Ego2ExoError: there is no llava, its `__init__.py` is not recognised, or it cannot be written.
    """
    file = locate(path)
    data = _read(file)
    if _recognise(file, data) == UNPATCHED:
        return "already unpatched"
    position, added = _patch()
    lines = data.splitlines(keepends=True)
    _write(file, b"".join(lines[:position] + lines[position + len(added) :]))
    return UNPATCHED


def patch_file() -> Path:
    """The patch as installed, or in the repository when the package runs from there without an installation.

    Raises:
        Ego2ExoError: it is in neither place.
    """
    places = [Path(__file__).resolve().parents[1] / "patches" / PATCH_NAME]
    with contextlib.suppress(ModuleNotFoundError):
        places.insert(0, Path(str(resources.files("llava_ego2exo.patches"))) / PATCH_NAME)
    for place in places:
        if place.is_file():
            return place
    raise Ego2ExoError(f"{PATCH_NAME} is missing", ", or ".join(map(str, places)), "install llava-ego2exo again")


def _importable() -> Path:
    try:
        spec = importlib.util.find_spec("llava")
    except ValueError:  # a stand-in without a spec sits in sys.modules
        spec = None
    if spec is None or not spec.origin:
        raise Ego2ExoError(
            "Python finds no `llava` package",
            "LLaVA-NeXT or PyPI's llava-torch, installed or on PYTHONPATH",
            f"install one of them, or give the path of {_PLACES}",
        )
    return Path(spec.origin).resolve()


def _patch() -> tuple[int, list[bytes]]:
    """After how many lines the patch inserts, and what."""
    file = patch_file()
    lines = file.read_bytes().replace(b"\r\n", b"\n").splitlines(keepends=True)
    hunks = [match for line in lines if (match := re.match(rb"@@ -(\d+),0 \+", line))]
    added = [line[1:] for line in lines if line.startswith(b"+") and not line.startswith(b"+++")]
    if len(hunks) != 1 or not added:
        raise Ego2ExoError(f"{file} is damaged", "one hunk that only adds lines", "install llava-ego2exo again")
    return int(hunks[0][1]), added


def _recognise(file: Path, data: bytes) -> str:
    """PATCHED or UNPATCHED by the whole content, whatever the newline style; anything else raises."""
    position, added = _patch()
    lines = data.replace(b"\r\n", b"\n").splitlines(keepends=True)
    known = {UNPATCHED: UPSTREAM, PATCHED: UPSTREAM[:position] + added + UPSTREAM[position:]}
    for name, content in known.items():
        if lines == content:
            return name
    raise Ego2ExoError(
        f"{file} is not recognised: against upstream's it differs in [{_difference(lines)}]",
        "upstream's file, unchanged or with our patch",
        f"restore upstream's file, or add this line to it by hand: {added[0].decode().strip()}",
    )


def _difference(lines: list[bytes]) -> str:
    ours, theirs = ([line.decode(errors="replace") for line in side] for side in (UPSTREAM, lines))
    changes = [line for line in difflib.ndiff(ours, theirs) if line[0] in "+-"]
    shown = " | ".join(repr(line) for line in changes[:3])
    return shown + (f" | and {len(changes) - 3} more lines" if len(changes) > 3 else "")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Ego2ExoError(f"cannot read {file} ({error})", "a readable file", "check its permissions") from error


def _write(file: Path, data: bytes) -> None:
    """Replace the file in one step.

    A new file also leaves other hard links alone: package managers link site-packages to their shared cache.
    """
    temporary = None
    try:
        if not file.stat().st_mode & 0o222 or not os.access(file, os.W_OK):  # root passes the second check always
            raise PermissionError("the file is read-only")
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".llava-init-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(file, temporary)
        os.replace(temporary, file)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        remedy = "make the file and its folder writable, or patch a copy that you own"
        raise Ego2ExoError(f"cannot write {file} ({error})", "a writable file", remedy) from error
