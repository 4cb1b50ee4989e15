"""Apply, inspect and revert the one-line patch that makes `llava` load its plugins.

The file is changed only when its whole content is known, so that a llava someone else has edited is never damaged::

    llava-ego2exo patch apply            # the llava that Python would import
    llava-ego2exo patch revert ~/LLaVA-NeXT
"""

from __future__ import annotations

import importlib.util
import os
from importlib import resources
from pathlib import Path

from .common.files import write_atomic
from .errors import Ego2ExoError

PATCH_NAME = "llava-plugins.patch"
PATCHED, UNPATCHED = "patched", "unpatched"
# All of `llava/__init__.py`, the same in LLaVA-NeXT 1.7.0.dev0 and in llava-torch 1.2.2.post1.
UPSTREAM = b"from .model import LlavaLlamaForCausalLM\n"
_PLACES = "a LLaVA checkout, a `llava` package folder, or a site-packages folder that holds one"


def locate(path: str | os.PathLike[str] | None = None) -> Path:
    """The `llava/__init__.py` that PATH means; llava is not imported.

    `path` is a LLaVA checkout, a `llava` package folder, or a site-packages folder; None finds the llava that
    ``import llava`` would load.
    """
    if path is None:
        try:
            spec = importlib.util.find_spec("llava")
        except ValueError:  # a stand-in without a spec sits in sys.modules
            spec = None
        if spec is not None and spec.origin:
            return Path(spec.origin).resolve()
        raise Ego2ExoError(
            "Python finds no `llava` package",
            "LLaVA-NeXT or PyPI's llava-torch, installed or on PYTHONPATH",
            f"install one of them, or give the path of {_PLACES}",
        )
    folder = Path(path).expanduser()
    candidates = [folder / "llava/__init__.py"]
    if folder.absolute().name == "llava":
        candidates.append(folder / "__init__.py")
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise Ego2ExoError(f"no llava at {folder}", _PLACES, "check the path, or leave it out for the llava in use")


def status(path: str | os.PathLike[str] | None = None) -> str:
    """``"patched"`` or ``"unpatched"``; path and errors as of :func:`locate`, and a file that is neither is refused."""
    return _state(locate(path))


def _state(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Ego2ExoError(f"cannot read {file} ({error})", "a readable file", "check its permissions") from error
    line = plugin_line()
    if content not in (UPSTREAM, UPSTREAM + line):
        raise Ego2ExoError(
            f"{file} is not recognised: it is neither upstream's nor patched",
            f"upstream's file, which is the line {UPSTREAM.decode().strip()!r}",
            f"restore upstream's file, or add this line to it by hand: {line.decode().strip()}",
        )
    return UNPATCHED if content == UPSTREAM else PATCHED


def apply(path: str | os.PathLike[str] | None = None) -> str:
    """Add the plugin line: ``"patched"``, or ``"already patched"`` when nothing had to be written.

    Raises:
        Ego2ExoError: as of :func:`status`, or the file cannot be written.
    """
    return _change(locate(path), UPSTREAM + plugin_line(), PATCHED)


def revert(path: str | os.PathLike[str] | None = None) -> str:
    """Take the plugin line out: ``"unpatched"``, or ``"already unpatched"``; errors as of :func:`apply`."""
    return _change(locate(path), UPSTREAM, UNPATCHED)


def _change(file: Path, content: bytes, state: str) -> str:
    if _state(file) == state:
        return f"already {state}"
    mode = file.stat().st_mode
    if not mode & 0o222:  # a rename would replace it all the same
        raise Ego2ExoError(f"{file} is read-only", "a writable file", "make it writable, or patch a copy that you own")
    # A new file also leaves other hard links alone: package managers link site-packages to their shared cache.
    write_atomic(file, content).chmod(mode)
    return state


def patch_file() -> Path:
    """The patch as installed, or in the repository when the package runs from there without an installation."""
    in_repository = Path(__file__).resolve().parents[1] / "patches" / PATCH_NAME
    if in_repository.is_file():
        return in_repository
    return Path(str(resources.files("llava_ego2exo.patches"))) / PATCH_NAME


def plugin_line() -> bytes:
    """The line that the patch adds at the end of `llava/__init__.py`."""
    (line,) = (row[1:] for row in patch_file().read_bytes().splitlines(keepends=True) if row.startswith(b"+for"))
    return line
