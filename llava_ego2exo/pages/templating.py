"""Self-contained pages from templates, in one style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHARED = Path(__file__).parent / "templates"


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
