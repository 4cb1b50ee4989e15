"""Whether `--version` names the conversation template by which the base can be taught."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ..errors import Ego2ExoError
from ..runs.listing import listed
from .class_letters import class_of
from .command_line import Settings
from .rehearsal import Rehearsal
from .templates import CERTAIN

_LEGACY = ("v0", "v0.5")


def check_version(settings: Settings) -> None:
    """The template's name, and whether it is the one of the base's class where that is certain.

    Raises:
        Ego2ExoError: LLaVA has no such template (it would take vicuna_v1), or none is given and the class has one.
    """
    from llava.conversation import SeparatorStyle, conv_templates

    version = settings["version"]
    meant = CERTAIN.get(class_of(settings) or "")
    meant = meant if meant in conv_templates else None
    if version not in conv_templates and version not in _LEGACY:
        raise Ego2ExoError(
            f"--version {version}: LLaVA has no such conversation template", ", ".join(conv_templates), _give(meant)
        )
    if meant is None:
        return
    if "version" not in settings.given:
        raise Ego2ExoError(
            f"no --version, and LLaVA's default {version} is not the conversation template of "
            f"{settings['model_name_or_path']}",
            ", ".join(conv_templates),
            _give(meant),
        )
    given = conv_templates.get(version)
    plain = given is not None and given.sep_style == SeparatorStyle.PLAIN
    if not plain and (given is None or given.version != conv_templates[meant].version):
        warnings.warn(
            f"--version {version}: {settings['model_name_or_path']} is of a class that LLaVA trains with {meant}; the "
            "student must be asked by the template that it is trained with.",
            stacklevel=2,
        )


def check_lessons(settings: Settings, rehearsal: Rehearsal, samples: Sequence[dict[str, Any]]) -> None:
    """Whether LLaVA leaves answers to learn from: with a template that does not fit it masks whole samples.

    Args:
        settings: the run's.
        rehearsal: of the run.
        samples: some of its samples.

    Raises:
        Ego2ExoError: none of the samples has a supervised token of its answers, or LLaVA cannot write one.
    """
    silent = [sample for sample in samples if not bool(rehearsal.content.own(rehearsal.labels(sample)[None]).any())]
    given = f"--version {settings['version']}: {len(silent)} of {len(samples)} samples looked at teach nothing"
    if samples and len(silent) == len(samples):
        raise Ego2ExoError(
            f"{given}: LLaVA masks their answers with this template and the tokenizer of "
            f"{settings['model_name_or_path']}",
            "the conversation template that the base was trained with",
            _give(CERTAIN.get(class_of(settings) or "")),
        )
    if silent:
        names = listed([f"id {sample.get('id')!r}" for sample in silent])
        warnings.warn(f"{given}: LLaVA masks their answers ({names}).", stacklevel=2)


def _give(meant: str | None) -> str:
    return f"give --version {meant}" if meant else "give --version the one that the base was trained with"
