"""LLaVA's training command with the plugin in it: ``torchrun -m llava_ego2exo.train --ego2exo True ...``.

Takes every flag of LLaVA's own ``llava/train/train_mem.py``; that file itself does the same once the checkout is
patched (``llava-ego2exo patch apply``).
"""

from __future__ import annotations

import sys

from . import Ego2ExoError, register
from .config import PREFIX, DistillConfig

_NUMBERS = ("kd_weight", "kd_temperature")


def main() -> None:
    """Register, then run LLaVA's `train`; wrong input ends with one line and exit code 1."""
    try:
        check_numbers(sys.argv[1:])
        register()
        from .host.run import run_train

        run_train()
    except Ego2ExoError as error:
        sys.exit(f"llava_ego2exo: error: {error}")


def check_numbers(argv: list[str]) -> None:
    """Refuse a weight or temperature that no run can use before torch and llava are imported.

    Raises:
        Ego2ExoError: with the number. What is no number is left to LLaVA's parser.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith(f"--{PREFIX}") else [word])]
    for flag, value in zip(words, words[1:], strict=False):
        name = flag.removeprefix(f"--{PREFIX}")
        if flag == name or name not in _NUMBERS:
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        DistillConfig(**{name: number})


if __name__ == "__main__":
    main()
