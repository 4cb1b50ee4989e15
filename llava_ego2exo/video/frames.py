"""Frames of one video by decord, as LLaVA-NeXT reads them; run as a program, for `video.read_video`."""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import Ego2ExoError
from .limits import VideoLimits
from .probe import Header, check_memory, read_header
from .sampling import duration_of, part_of, sample_indices
from .serving import Desk, serve, short_reason

# What decord puts before its messages: time of day and place in its source, and the check that failed.
_NOISE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: |Check failed: .*\(-?\d+ vs\. -?\d+\) (?=\S)")


def answer(request: dict[str, Any], desk: Desk) -> dict[str, Any]:
    """How long a video is, or its sampled frames, which are shared.

    Args:
        request: `path`, `limits`, `want` ("seconds" or "frames"), and for frames the arguments of `read_video`.
        desk: takes the frames.

    Raises:
        Ego2ExoError: the file does not decode or is not allowed; the message is to be read after its name.
    """
    header = _header(request["path"], VideoLimits(**request["limits"]))
    try:
        return _read(request, header, desk)
    except Ego2ExoError:
        raise
    except Exception as error:
        raise _undecoded(_reason(error, header)) from error


def _header(path: str, limits: VideoLimits) -> Header:
    try:
        return read_header(path, limits)
    except Ego2ExoError:
        raise
    except Exception as error:
        raise _undecoded(short_reason(error)) from error


def _read(request: dict[str, Any], header: Header, desk: Desk) -> dict[str, Any]:
    import decord

    reader = decord.VideoReader(request["path"], ctx=decord.cpu(0), num_threads=1)
    rate, total = float(reader.get_avg_fps()), len(reader)
    if not (total and math.isfinite(rate) and rate > 0):
        raise _undecoded("holds no frame that says its time")
    if request["want"] == "seconds":
        return {"seconds": duration_of(_times(reader), rate)}
    first, last = 0, total
    if request["start_s"] is not None or request["end_s"] is not None:
        first, last = part_of(_times(reader), rate, request["start_s"], request["end_s"])
    sampled = sample_indices(last - first, rate, request["fps"], request["frames_upbound"], request["force_sample"])
    check_memory(len(sampled), header, VideoLimits(**request["limits"]))
    frames = reader.get_batch([first + index for index in sampled]).asnumpy()
    desk.share(frames)
    return {"shape": frames.shape, "first": first, "last": last, "sampled": sampled, "rate": rate}


def _times(reader: Any) -> Any:
    """Seconds after the first frame at which each is shown."""
    import numpy as np

    times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    return times - times[0]


def _undecoded(reason: str) -> Ego2ExoError:
    return Ego2ExoError(f"does not decode: {reason}", "a file that ffmpeg plays", "encode it again")


def _reason(error: Exception, header: Header) -> str:
    if "from_size == to_size" in str(error):
        # Rows of such frames are padded in memory; decord cannot hand them out.
        return f"decord cannot read frames of width {header.width}"
    text = _NOISE.sub("", str(error)).strip()
    return text.splitlines()[-1][-160:] if text else type(error).__name__


def _prepare() -> None:
    import av  # noqa: F401
    import decord  # noqa: F401


def main() -> None:
    """Serve whoever started this process."""
    serve(_prepare, answer)


if __name__ == "__main__":
    main()
