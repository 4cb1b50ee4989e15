"""PyAV, or what to install."""

from __future__ import annotations

from typing import Any

from ..errors import Ego2ExoError


def require_av() -> Any:
    """The module `av`.

    Raises:
        Ego2ExoError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise Ego2ExoError("PyAV is not installed", "", "pip install 'llava-ego2exo[pairs]'") from error
    return av
