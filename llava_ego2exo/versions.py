"""Which versions were tested, which are the oldest that can work, and which are known to fail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """One row of the version table; `needed` names the flavours that cannot train or load without it."""

    name: str
    tested: tuple[str, ...]
    minimum: str
    use: str
    needed: tuple[str, ...] = ()


BOTH = ("next", "pypi")
PYTHON = Library("python", ("3.11",), "3.10", "everything", BOTH)
LIBRARIES = (
    Library("torch", ("2.13.0",), "2.1", "everything", BOTH),
    Library("transformers", ("4.40.2", "4.45.2"), "4.40", "everything", BOTH),
    Library("accelerate", ("0.34.2",), "0", "loading models and training", BOTH),
    Library("einops", ("0.8.2",), "0.6.1", "reshaping tensors", BOTH),
    Library("wrapt", ("2.5.2",), "1.14", "hooking into LLaVA", BOTH),
    Library("peft", ("0.10.0",), "0.10", "--lora_enable and merging"),
    Library("bitsandbytes", ("0.50.2",), "0.43", "--bits 4 and --bits 8"),
    Library("flash-attn", (), "2.5", "speed alone; sdpa does the same without it"),
    Library("deepspeed", ("0.14.4",), "0", "training in LLaVA-NeXT, which imports it always", ("next",)),
    Library("decord", ("0.6.0",), "0.6", "reading video files"),
    Library("av", ("18.1.0",), "12", "reading, cutting, probing and drawing videos"),
    Library("matplotlib", ("3.11.2",), "3.7", "plots of a run, reports"),
    Library("snowballstemmer", ("3.1.1",), "2", "reading replies in evaluation"),
    Library("openai", ("3.57.0",), "1.30", "asking a judge model in evaluation"),
)
# llava-torch comes from the time of transformers 4.36 and ran on 4.37.2.
PYPI_MINIMUM = {"transformers": "4.37"}


@dataclass(frozen=True)
class Breakage:
    """Versions of a library, from `first` up to but not including `end`, that a flavour is known to fail with."""

    library: str
    flavour: str
    first: str
    end: str
    why: str
    stops: bool


BREAKAGES = (
    Breakage("transformers", "next", "0", "4.38", "no AcceleratorConfig yet: LLaVA-NeXT cannot train", True),
    Breakage("transformers", "next", "4.47.1", "999", "no GradientAccumulationPlugin: LLaVA-NeXT cannot train", True),
)
