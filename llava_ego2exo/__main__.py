"""`python -m llava_ego2exo`: the console script where a module is needed, as torchrun does."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
