"""Video clips: sampled frames decoded in separate processes, limits of a video, and a cache of decoded frames."""

from .frames import require_av
from .limits import VideoLimits
from .reader import Clip, read_video, sample_indices, time_instruction, video_seconds

__all__ = [
    "Clip",
    "VideoLimits",
    "read_video",
    "require_av",
    "sample_indices",
    "time_instruction",
    "video_seconds",
]
