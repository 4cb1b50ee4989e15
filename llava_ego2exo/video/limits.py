"""How long, large and heavy a video may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any

from ..errors import Ego2ExoError


def _flag(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class VideoLimits:
    """Bounds of one video; as flags `--video-limit-s` and so on, in training `--ego2exo_video_limit_s` and so on.

    Raises:
        Ego2ExoError: a bound is no number above 0.
    """

    video_limit_s: float = _flag(120.0, "Seconds that one video may take to read; then its decoder is stopped.")
    video_max_megapixels: float = _flag(64.0, "Most megapixels of a frame, width x height / 1,000,000.")
    video_max_hours: float = _flag(24.0, "Most hours that a video may last.")
    video_max_gib: float = _flag(4.0, "Most GiB that the frames taken from one video may need.")

    def __post_init__(self) -> None:
        for bound in fields(self):
            value = getattr(self, bound.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not (isfinite(value) and value > 0):
                raise Ego2ExoError(
                    f"{_flags(bound.name)} {value}",
                    "a number above 0",
                    f"leave it out for {bound.default:g}",
                )

    @property
    def most_bytes(self) -> int:
        """What the frames of one clip may take."""
        return int(self.video_max_gib * 2**30)

    def request(self) -> dict[str, Any]:
        """What a decoder's process is told of them."""
        return {"limits": self.to_dict(), "most_bytes": self.most_bytes}

    def to_dict(self, prefix: str = "") -> dict[str, float]:
        """Each bound under its name.

        Args:
            prefix: before each name.
        """
        return {prefix + name: value for name, value in asdict(self).items()}

    @classmethod
    def from_object(cls, source: Any, prefix: str = "") -> VideoLimits:
        """Read the bounds from anything that carries them as attributes; what it lacks has its default.

        Args:
            source: parsed arguments.
            prefix: before each name.
        """
        names = [bound.name for bound in fields(cls) if hasattr(source, prefix + bound.name)]
        return cls(**{name: getattr(source, prefix + name) for name in names})


def raising(name: str) -> str:
    """What to do where a bound is in the way.

    Args:
        name: a field of :class:`VideoLimits`.
    """
    return f"raise {_flags(name)}, or encode the video again"


def _flags(name: str) -> str:
    return f"--{name.replace('_', '-')} (in training --ego2exo_{name})"
