"""How large and long a video may be, and how long decoding it may take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any

from ..errors import Ego2ExoError

# What ffmpeg plays and cameras write.
VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)  # fmt: skip


def _flag(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class VideoLimits:
    """Limits of one video; as flags `--video-limit-s` etc., in training `--ego2exo_video_limit_s` etc.

    Raises:
        Ego2ExoError: a limit is not a number above 0.
    """

    video_limit_s: float = _flag(120.0, "Maximum seconds to decode one video; then its decoder is killed.")
    video_max_megapixels: float = _flag(64.0, "Maximum megapixels of a frame, width x height / 1,000,000.")
    video_max_hours: float = _flag(24.0, "Maximum duration of a video in hours.")
    video_max_gib: float = _flag(4.0, "Maximum GiB of the frames sampled from one video.")

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not (isfinite(value) and value > 0):
                raise Ego2ExoError(
                    f"{_flags(limit.name)} {value}", "a number above 0", f"omit it for {limit.default:g}"
                )

    @property
    def max_bytes(self) -> int:
        """`video_max_gib` in bytes."""
        return int(self.video_max_gib * 2**30)

    def to_dict(self, prefix: str = "") -> dict[str, float]:
        """Limits by name, with a prefix."""
        return {prefix + name: value for name, value in asdict(self).items()}

    @classmethod
    def from_object(cls, source: Any, prefix: str = "") -> VideoLimits:
        """Limits from attributes, whose names have a prefix; missing ones have their defaults."""
        names = [limit.name for limit in fields(cls) if hasattr(source, prefix + limit.name)]
        return cls(**{name: getattr(source, prefix + name) for name in names})


def raising(name: str) -> str:
    """The remedy where a limit, a field of :class:`VideoLimits`, is exceeded."""
    return f"raise {_flags(name)}, or encode the video again"


def _flags(name: str) -> str:
    return f"--{name.replace('_', '-')} (in training --ego2exo_{name})"
