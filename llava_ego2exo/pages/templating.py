"""Self-contained pages from templates, in one style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError

SHARED = Path(__file__).parent / "templates"


def require_jinja() -> None:
    """Ask for what pages are made with; to be called before a long run.

    Raises:
        Ego2ExoError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise Ego2ExoError("jinja2 is not installed", "", "pip install 'llava-ego2exo[report]'") from error


def templates(folder: Path, **filters: Any) -> Any:
    """The templates of a folder and the shared `page.css`; all is escaped that is not markup of our own.

    Args:
        folder: of the templates.
        filters: further ones, by name.
    """
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(filters)
    return made
