"""What a user of `llava-ego2exo teach` asks for."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import Ego2ExoError
from ...video.cache import ReaderSettings


@dataclass(frozen=True)
class TeachJob:
    """A command line.

    Args:
        pairs: a pairs.jsonl.
        model: folder or hub name of the teacher.
        out: the answers folder.
        model_base: what the teacher was trained from, where its folder holds no whole model.
        template: LLaVA's conversation template; None: the one of the checkpoint's class, where that is certain.
        dtype: of the weights; None: bfloat16 on a GPU, else float32.
        bits: 4, 8 or 16.
        queries: a JSON file of queries; None: the package's own.
        seed: of the wording drawn for each clip.
        split: "train", "val", "test" or "all".
        frames_upbound: most frames of a clip; 0 for no bound.
        video_fps: frames taken a second.
        force_sample: always take `frames_upbound` frames; None: from the checkpoint's config.
        time_instruction: give the model the times of the frames; None: from the checkpoint's config.
        max_new_tokens: most tokens of an answer.
        batch_size: clips that go through the model together, each with all its queries.
        top_k: how many logits of each answer token to keep; 0: none.
        workers: threads that read clips.
        reading: how they are read.
        max_failures: how many clips may fail.
        estimate: how many clips to time; 0: answer all.
    """

    pairs: str
    model: str
    out: str
    model_base: str | None = None
    template: str | None = None
    dtype: str | None = None
    bits: int = 16
    queries: str | None = None
    seed: int = 0
    split: str = "train"
    frames_upbound: int = 32
    video_fps: int = 1
    force_sample: bool | None = None
    time_instruction: bool | None = None
    max_new_tokens: int = 256
    batch_size: int = 4
    top_k: int = 0
    workers: int = 4
    reading: ReaderSettings = ReaderSettings()
    max_failures: int = 0
    estimate: int = 0

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "top_k": 0, "workers": 1, "max_failures": 0, "estimate": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                given = f"--{name.replace('_', '-')} {getattr(self, name)}"
                raise Ego2ExoError(given, f"{value} or more")
