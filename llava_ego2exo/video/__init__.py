"""Video clips: sampled frames decoded in separate processes, limits of a video, and a cache of decoded frames."""

from .limits import VideoLimits
from .reader import Clip, read_video, require_decoders, sample_indices, time_instruction, video_seconds

__all__ = [
    "Clip",
    "VideoLimits",
    "read_video",
    "require_decoders",
    "sample_indices",
    "time_instruction",
    "video_seconds",
]
