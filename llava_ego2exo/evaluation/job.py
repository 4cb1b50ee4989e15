"""What a user of `llava-ego2exo eval` asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.text import repeated, shorten_list
from ..errors import Ego2ExoError, refuse
from ..host.inference.settings import InferenceOptions
from .items import GENERATE, MODES
from .judge.settings import JudgeSettings
from .replies.parser import PARSERS

VIEWS = ("exo", "ego", "both")
# Names become folders of the results.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class EvalModel:
    """One model of a run: its name in tables and of its folder, and its checkpoint."""

    name: str
    path: str
    base: str | None = None  # what it was trained from, where it holds no whole model
    spare: bool = False  # the base was given for whichever model needs one, not for this one by name


@dataclass(frozen=True)
class EvalJob(InferenceOptions):
    """A command line; template, frames and more as in :class:`InferenceOptions`, by keyword.

    Args:
        benchmark: name, see `benchmarks.BENCHMARKS`.
        data: its file, or a folder that holds it.
        videos: folder of its videos; "": the one beside its file.
        out: folder of the results.
        models: one or more.
        modes: "generate", "likelihood" or both.
        view: "exo", "ego" or "both", for benchmarks with two cameras.
        categories: those to ask about; none: all.
        clip_seconds: length of the clips in which long videos are described (TSU-Description).
        limit: ask the first so many questions only; 0: all.
        parser: what reads replies, see `parsers.PARSERS`.
        max_new_tokens: most tokens of a reply; None: 64 for multiple choice, 256 for descriptions.
        max_bad_rows: how many malformed rows of the data may be left out.
        judge: of descriptions, and of unparsed replies where its settings include them; None: none.
        compare_to: name of the model that the others are compared with; None: the first.
    """

    benchmark: str
    data: str
    videos: str
    out: str
    models: tuple[EvalModel, ...]
    modes: tuple[str, ...] = (GENERATE,)
    view: str = "exo"
    categories: tuple[str, ...] = ()
    clip_seconds: float = 1.0
    limit: int = 0
    parser: str = "strict"
    max_new_tokens: int | None = None
    max_bad_rows: int = 0
    judge: JudgeSettings | None = None
    compare_to: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # From Python one value may stand for a tuple of one.
        for name, kind in (("models", EvalModel), ("modes", str), ("categories", str)):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, kind) else tuple(value))
        names = [model.name for model in self.models]
        check_names(names)
        self.require_at_least(limit=0, max_bad_rows=0)
        wrong_modes, compared = not self.modes or not set(self.modes) <= set(MODES), self.compare_to
        refuse(
            (not 0.1 <= self.clip_seconds <= 3600, f"--clip-seconds {self.clip_seconds}", "0.1 to 3600", ""),
            (self.view not in VIEWS, f"--view {self.view}", ", ".join(VIEWS), ""),
            (self.parser not in PARSERS, f"--parser {self.parser}", ", ".join(PARSERS), ""),
            (compared not in (None, *names), f"--compare-to {compared}", ", ".join(names), "name a model of this run"),
            (wrong_modes, f"--mode {' '.join(self.modes)}", ", ".join(MODES), "name one or both"),
        )

    @property
    def views(self) -> tuple[str, ...]:
        """The cameras to ask about."""
        return ("exo", "ego") if self.view == "both" else (self.view,)


def check_names(names: Sequence[str]) -> None:
    """Refuse names of models that cannot be folders, or occur twice."""
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if wrong or repeated(names) or not names:
        raise Ego2ExoError(
            f"--model {shorten_list(wrong or repeated(names) or ['nothing'])}",
            "models of different names, of letters, digits and . _ + -",
            "name them: --model base=CKPT --model student=CKPT",
        )


def models_of(given: Sequence[str], bases: Sequence[str]) -> tuple[EvalModel, ...]:
    """`--model` and `--model-base`, each ``PATH`` or ``NAME=PATH``.

    A model without a name is called by its last folder; a base without one is for every model that needs one.
    """
    named = [_named(text) for text in given]
    models = {name or _last(path): path for name, path in named}
    names = [name or _last(path) for name, path in named]
    check_names(names)
    own = dict(_named(text) for text in bases)
    unknown = [str(name) for name in own if name and name not in models]
    if unknown or len(own) < len(bases):
        raise Ego2ExoError(
            f"--model-base {shorten_list([*bases])}",
            f"one base for all adapters, or NAME=BASE with NAME of {', '.join(names)}, each once",
            "name each model's base once",
        )
    common = own.get(None)
    return tuple(
        EvalModel(name, path, own[name]) if name in own else EvalModel(name, path, common, spare=common is not None)
        for name, path in models.items()
    )


def _named(text: str) -> tuple[str | None, str]:
    name, equals, path = text.partition("=")
    # A path may hold an equals sign too; a name holds no slash.
    return (name, path) if equals and path and _NAME.fullmatch(name) and not Path(text).exists() else (None, text)


def _last(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "-", Path(path).absolute().name).lstrip(".-_+") or "model"
