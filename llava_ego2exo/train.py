"""LLaVA's training command with the plugin in it: ``torchrun -m llava_ego2exo.train --ego2exo True ...``.

Takes every flag of LLaVA's own ``llava/train/train_mem.py``; that file itself does the same once the checkout is
patched (``llava-ego2exo patch apply``).
"""

from __future__ import annotations

import sys

from . import Ego2ExoError, register


def main() -> None:
    """Register, then run LLaVA's `train`; wrong input ends with one line and exit code 1, Ctrl-C with 130."""
    try:
        register()
        from .host.run import run_train

        run_train()
    except Ego2ExoError as error:
        sys.exit(f"llava_ego2exo: error: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command resumes from the last checkpoint, if there is one\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
