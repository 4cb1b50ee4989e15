"""What can be known beforehand of how a run will read its clips."""

from __future__ import annotations

from types import SimpleNamespace

from ..common.files import require_writable
from ..config import PREFIX, ReadingConfig
from ..errors import Ego2ExoError
from ..video.limits import VideoLimits
from .command_line import Settings
from .teacher_checks import data_parallel


def check_reading(settings: Settings) -> None:
    """Refuse flags of reading that no run, or not this one, can use.

    Raises:
        Ego2ExoError: naming the flag.
    """
    given = SimpleNamespace(**settings.values)
    flags = ReadingConfig.from_object(given)
    VideoLimits.from_object(given, PREFIX)
    cache = f"--{PREFIX}frame_cache"
    if flags.frame_cache is not None:
        require_writable(flags.frame_cache, cache, folder=True)
    elif f"{PREFIX}frame_cache_gb" in settings.given:
        raise Ego2ExoError(f"{cache}_gb without {cache}", "both, or neither", f"add {cache} DIR, or leave it out")
    if flags.max_bad:
        _check_counting(settings, flags.max_bad)


def _check_counting(settings: Settings, most: int) -> None:
    """Samples that are left out are counted by our trainer, which must see batches whole."""
    trainer, smoothing = settings["trainer_type"], settings["label_smoothing_factor"]
    cases = (
        (trainer not in (None, "ego2exo"), f"--trainer_type {trainer}", "leave it out"),
        (smoothing, f"--label_smoothing_factor {smoothing}", "leave it out"),
        (data_parallel(settings), "several GPUs in one process", "start with torchrun, or show one GPU"),
    )
    for wrong, other, remedy in cases:
        if wrong:
            raise Ego2ExoError(
                f"--{PREFIX}max_bad {most} with {other}: samples that are left out would not be counted",
                f"--{PREFIX}max_bad 0 there",
                remedy,
            )
