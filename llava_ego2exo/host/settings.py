"""Which flags the user gave, and which values a run takes over from its base checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..config import PREFIX, PRESETS, Ego2ExoConfig, base_type
from ..errors import Ego2ExoError, refuse
from ..run_config import DistillConfig
from .checkpoint.config import read_config

_UNSET = object()

# flag -> key in a LLaVA checkpoint's config.json. LLaVA overwrites each with the flag's default when it is not given.
INHERITED = {"vision_tower": "mm_vision_tower"} | {
    name: name
    for name in (
        "mm_projector_type", "mm_vision_select_layer", "mm_vision_select_feature", "mm_patch_merge_type",
        "mm_newline_position", "mm_spatial_pool_stride", "mm_spatial_pool_mode", "mm_resampler_type",
        "mm_use_im_start_end", "mm_use_im_patch_token", "add_faster_video", "faster_token_stride", "image_aspect_ratio",
        "image_grid_pinpoints", "image_crop_resolution", "image_split_resolution", "add_time_instruction",
        "force_sample", f"{PREFIX}pool",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """One command line."""

    values: dict[str, Any]  # of every flag, given or by default
    given: frozenset[str]  # the flags that the user wrote
    base: dict[str, Any]  # the base checkpoint's config.json; empty where it cannot be read
    defaults: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, flag: str) -> Any:
        return self.values.get(flag)

    @property
    def on(self) -> bool:
        """Whether this run trains ego tokens: by flag, by projector type, or because the base has them.

        A base that has them and `--ego2exo False` contradict each other, which the checks of such a run refuse.
        """
        return bool(
            self["ego2exo"] or str(self["mm_projector_type"]).startswith(PREFIX) or self.base.get("ego2exo", False)
        )


def read(classes: tuple[type, ...], argv: list[str]) -> Settings:
    """Parse `argv` as LLaVA will, without building its argument objects.

    Raises:
        Ego2ExoError: a flag that none of the classes has; LLaVA's parser would end in a traceback.
    """
    from transformers import HfArgumentParser

    defaults = {field.name: field.default for cls in classes for field in dataclasses.fields(cls)}
    sentinel = argparse.Namespace(**dict.fromkeys(defaults, _UNSET))
    parsed, rest = HfArgumentParser(classes).parse_known_args(argv, namespace=sentinel)
    _refuse_unknown(rest, sorted(defaults))
    given = {name: value for name, value in vars(parsed).items() if value is not _UNSET and name in defaults}
    values = {**defaults, **given}
    try:
        base = read_config(values.get("model_name_or_path"))
    except Ego2ExoError:
        base = {}  # a run without ego tokens meets LLaVA's own message; one with them is refused by its checks
    return Settings(values, frozenset(given), base, defaults)


def _refuse_unknown(rest: list[str], known: list[str]) -> None:
    if not rest:
        return
    names = [word.split("=")[0] for word in rest if word.startswith("--")]
    near = {name: get_close_matches(name.strip("-").replace("-", "_"), known, 1) for name in names}
    meant = "; ".join(f"--{match[0]}, not {name}" for name, match in near.items() if match)
    raise Ego2ExoError(
        f"no such flag or value: {', '.join(names or rest)}",
        "the flags of LLaVA's training and those of docs/flags.md",
        f"write {meant}" if meant else "fix or remove it",
    )


def apply_preset(settings: Settings) -> tuple[Settings, dict[str, Any]]:
    """Take what the user did not give from `--ego2exo_preset`; it counts as given, so a base checkpoint must agree.

    Returns:
        The settings with these values in place, and the values alone.

    Raises:
        Ego2ExoError: no such preset, or a flag is given with another value than the preset's.
    """
    name, flag = settings[f"{PREFIX}preset"], f"--{PREFIX}preset"
    if name is None:
        return settings, {}
    if name not in PRESETS:
        raise Ego2ExoError(f"{flag} {name}", ", ".join(PRESETS), "leave it out")
    preset = {PREFIX + key: value for key, value in PRESETS[name].items()}
    other = [key for key, value in preset.items() if key in settings.given and settings[key] != value]
    refuse(
        (other, f"{flag} {name} with {', '.join(f'--{key} {settings[key]}' for key in other)}",
         f"{flag} {name} sets {', '.join(f'--{key} {preset[key]}' for key in other)}", f"leave these or {flag} out"),
    )  # fmt: skip
    found = {key: value for key, value in preset.items() if key not in settings.given}
    given = settings.given.union(found)
    return dataclasses.replace(settings, values={**settings.values, **found}, given=given), found


def inherit(settings: Settings) -> tuple[Settings, dict[str, Any]]:
    """Take what the user did not give from the base checkpoint.

    Returns:
        The settings with these values in place, and the values alone.
    """
    sources = dict(INHERITED)
    if settings.base.get("ego2exo"):
        sources |= {name: name for name in ("ego2exo", *Ego2ExoConfig().to_dict())}
        if f"{PREFIX}num_tokens" in settings.given:  # another number is refused, and not for the grid of the base's
            del sources[f"{PREFIX}grid"]
    found = {}
    for flag, key in sources.items():
        value = settings.base.get(key)
        if flag in settings.values and flag not in settings.given and value is not None:
            value = base_type(value) if flag == "mm_projector_type" else value
            if value != settings.values[flag]:
                found[flag] = value
    return dataclasses.replace(settings, values={**settings.values, **found}), found


@dataclass(frozen=True)
class DataFile:
    """A file of training rows, and which of them LLaVA-NeXT takes by its YAML list's `sampling_strategy`."""

    path: str
    sampling: str = "all"

    def kept(self, count: int) -> range:
        """Indices of the rows that may be trained on; of a random strategy all."""
        how, _, number = self.sampling.partition(":")
        if how not in ("first", "end") or not number:
            return range(count)
        most = -(-int(number.rstrip("%")) * count // 100) if number.endswith("%") else int(number)
        return range(min(most, count)) if how == "first" else range(max(count - most, 0), count)


def data_files(settings: Settings) -> list[DataFile]:
    """The JSON files that LLaVA reads for `--data_path`: one, or in LLaVA-NeXT `{a,b}.json` or a YAML list.

    Raises:
        Ego2ExoError: the host does not read such a path, or a file is not there.
    """
    path, lists = settings["data_path"], "mm_newline_position" in settings.values
    if not path:
        raise Ego2ExoError("no --data_path", "a JSON file of LLaVA samples", "pass --data_path train.json")
    files = [DataFile(path)]
    braces = re.match(r"^(.*)\{(.*)\}\.json$", path)
    if braces:
        files = [DataFile(f"{braces.group(1)}{name}.json") for name in braces.group(2).split(",")]
    elif path.endswith(".yaml") and Path(path).is_file():
        files = _yaml_files(path)
    allowed = "one .json file, `{a,b}.json` or a .yaml list (.jsonl only inside it)" if lists else "one .json file"
    missing = [file.path for file in files if not Path(file.path).is_file()]
    odd = path.endswith(".jsonl") or (lists and not braces and "{" in path and "}" in path)
    refuse(
        (odd or (files != [DataFile(path)] and not lists), f"--data_path {path} is not read by this llava", allowed,
         "write one JSON list"),
        (missing, f"--data_path {path}: no file {', '.join(missing)}", "existing JSON files", "check the path"),
    )  # fmt: skip
    return files


def _yaml_files(path: str) -> list[DataFile]:
    import yaml

    allowed = (
        "`datasets:`, a list of `json_path:` (.json or .jsonl) with `sampling_strategy:` all, first:N, end:N or "
        "random:N, where N is 1 or more, or a percentage (10%)"
    )
    try:
        listed = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        files = [DataFile(entry["json_path"], entry.get("sampling_strategy", "all")) for entry in listed["datasets"]]
        wrong = [file for file in files if not file.path.endswith((".json", ".jsonl"))]
        wrong += [file for file in files if not re.fullmatch(r"all|(first|end|random):0*[1-9]\d*%?", file.sampling)]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Ego2ExoError(f"--data_path {path} is no list of training files", allowed, "fix the file") from error
    refuse(
        (not files, f"--data_path {path} lists no file", allowed, "add one"),
        (wrong, f"--data_path {path} lists {wrong and wrong[0]}", allowed, "fix this entry"),
    )  # fmt: skip
    return files


@dataclass
class Run:
    """One call of LLaVA's `train()` with ego tokens: what its hooks cannot be passed."""

    signature: dict[str, Any] = field(default_factory=dict)  # see :func:`~..resume.signature.run_signature`
    pool: str | None = None  # the base's own `--ego2exo_pool`
    trainer: Any = None  # once it is made


SEED: ContextVar[int] = ContextVar("ego2exo_seed", default=42)
DISTILL: ContextVar[DistillConfig | None] = ContextVar("ego2exo_distill", default=None)
RUN: ContextVar[Run | None] = ContextVar("ego2exo_run", default=None)
