"""How a model is asked: everything beside model, clip and query that its answer hangs on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...errors import Ego2ExoError

DTYPES = ("float32", "bfloat16", "float16")
BITS = (4, 8, 16)


@dataclass(frozen=True)
class Settings:
    """Part of every answer's key.

    Args:
        template: name of LLaVA's conversation template.
        frames_upbound: most frames of a clip; 0 for no bound.
        video_fps: frames taken a second.
        force_sample: always take `frames_upbound` frames.
        time_instruction: tell the model the clip's length and the times of its frames, as LLaVA-Video was trained.
        max_new_tokens: most tokens of an answer.
        bits: 4, 8, or 16 for weights that are not quantized.
        dtype: of the weights that are not quantized.

    Raises:
        Ego2ExoError: a value is not allowed.
    """

    template: str
    frames_upbound: int = 32
    video_fps: int = 1
    force_sample: bool = False
    time_instruction: bool = False
    max_new_tokens: int = 256
    bits: int = 16
    dtype: str = "float32"

    def __post_init__(self) -> None:
        rules = (
            (self.frames_upbound >= 0, f"--frames-upbound {self.frames_upbound}", "0 (no bound) or more"),
            (self.video_fps >= 1, f"--video-fps {self.video_fps}", "1 or more"),
            (self.max_new_tokens >= 1, f"--max-new-tokens {self.max_new_tokens}", "1 or more"),
            (self.bits in BITS, f"--bits {self.bits}", ", ".join(map(str, BITS))),
            (self.dtype in DTYPES, f"--dtype {self.dtype}", ", ".join(DTYPES)),
            (
                self.frames_upbound or not self.force_sample,
                "--force-sample True with --frames-upbound 0",
                "a bound of 1 or more, which is then the number of frames of every clip",
            ),
        )
        for right, given, allowed in rules:
            if not right:
                raise Ego2ExoError(given, allowed, "mend this flag")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in records and keys."""
        return asdict(self)
