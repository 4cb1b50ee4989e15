"""The base's class, tokenizer and conversation template, and samples as the student will read them."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from ...common.text import shorten_list
from ...errors import Ego2ExoError, refuse
from ..checkpoint.config import CLASSES, LANGUAGE_MODELS, class_key, read_tokenizer, require_host
from ..checkpoint.vocabulary import added_tokens
from ..fixes.data import written_as
from ..hooks.flavour import NEXT, PYPI, detect
from ..hooks.install import substituted
from ..inference.settings import CERTAIN
from ..model.answer_tokens import AnswerContent
from ..settings import Settings
from .data import RowRules

# Letters in a base's path by which LLaVA's train script chooses its tokenizer, in its order.
_FAST = ("mistral", "mixtral", "zephyr", "qwen")
_SLOW = ("wizardlm-2", "vicuna", "llama", "yi")
_LEGACY = ("v0", "v0.5")


def check_class(settings: Settings) -> None:
    """Refuse a base whose class or tokenizer LLaVA's train script would not find.

    Raises:
        Ego2ExoError: the base is no LLaVA model, `--model_class_name` is given, or the path lacks the letters.
    """
    path, kind, name = str(settings["model_name_or_path"]), _class_of(settings), settings["model_class_name"]
    model_type = str(settings.base.get("model_type", "?"))
    if kind is not None:
        require_host(kind, path)
    refuse(
        (name is not None, f"--model_class_name {name} with --ego2exo True: it names a class of transformers, without "
         "a vision tower", "the class that the base's config.json names", "leave it out"),
        (kind is None and not model_type.startswith("llava"), f"--model_name_or_path {path} is a {model_type!r} model",
         f"a LLaVA checkpoint ({', '.join(CLASSES)}) or a language model that LLaVA trains "
         f"({', '.join(LANGUAGE_MODELS)})", "pass the checkpoint to start from"),
    )  # fmt: skip
    if detect() == PYPI and "mpt" in path:
        link = Path(path).absolute()
        raise Ego2ExoError(
            f"--model_name_or_path {path}: llava-torch's train script takes a path that holds 'mpt' anywhere for MPT",
            "a path without these letters, those of 'prompt' and 'empty' too",
            f"rename the folder, or pass a link to it: ln -s {link} llava-base",
        )
    if detect() != NEXT or any(letters in path.lower() for letters in (*_FAST, *_SLOW)):
        return
    # Of the letters, those in the class's own name; Gemma's tokenizer is found by Qwen's.
    found = next((letters for letters in (*_FAST, *_SLOW) if letters in (kind or "")), "qwen")
    wanted, folder = "gemma-qwen" if kind == "llava_gemma" else found, Path(path)
    raise Ego2ExoError(
        f"--model_name_or_path {path} (by its config {kind or model_type}): LLaVA-NeXT's train script finds the "
        "tokenizer by letters in this path, and there are none that it knows",
        f"a path that holds {wanted!r}",
        f"rename the folder, or pass a link to it: ln -s {folder.name} {folder.parent / (folder.name + '-' + wanted)}",
    )


def _class_of(settings: Settings) -> str | None:
    """Key of the class that the base is trained as; None where its config names no known one."""
    found = class_key(settings.base, str(settings["model_name_or_path"]))
    return found or LANGUAGE_MODELS.get(str(settings.base.get("model_type")))


def row_rules(settings: Settings) -> RowRules:
    """Which rows LLaVA trains right, as its functions `preprocess_*` for the run's template write them."""
    from llava.conversation import SeparatorStyle

    template, lists = _template(settings), detect() == NEXT
    style, version = template.sep_style, template.version
    chat = version in ("qwen", "llama_v3")
    return RowRules(
        roles=("human", "gpt", "user", "assistant", "system") if chat else ("human", "gpt"),
        alternating=style == SeparatorStyle.LLAMA_2 or version.startswith("v1") or version in ("mpt", "gemma"),
        one_answer=style == SeparatorStyle.PLAIN, system=bool(template.system), image_lists=lists,
        frame_folder="shareVideoGPTV" if lists else None, times=bool(settings["add_time_instruction"]),
    )  # fmt: skip


def _template(settings: Settings) -> Any:
    from llava import conversation

    version = None if settings["version"] in _LEGACY else settings["version"]  # LLaVA leaves its default there
    return conversation.conv_templates.get(version, conversation.default_conversation)


class PreprocessPreview:
    """Samples as the student reads them: LLaVA's own preprocessing with the run's tokenizer and template."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.tokenizer = settings, student_tokenizer(settings)
        self.conversation = _template(settings)
        self.content = AnswerContent(self.tokenizer, self.conversation.roles[1])
        # LLaVA copies the tokenizer for each sample, which takes a second with a large vocabulary.
        self._copied = copy.copy(self.tokenizer)
        self._copied.__deepcopy__ = lambda _memo: self._copied

    def labels(self, sample: dict[str, Any]) -> Tensor:
        """(length,) of one sample, -100 where nothing is supervised; visual tokens are one place.

        Raises:
            Ego2ExoError: LLaVA cannot write it.
        """
        import llava.train.train as host
        from llava import conversation

        turns, visual = copy.deepcopy([sample["conversations"]]), "image" in sample or "video" in sample
        args = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=bool(self.settings["mm_use_im_start_end"]))
        quiet = contextlib.redirect_stdout(io.StringIO())  # LLaVA prints each mismatch
        try:
            with substituted(conversation, default_conversation=self.conversation), written_as(sample), quiet:
                turns = host.preprocess_multimodal(turns, args) if visual else turns
                return host.preprocess(turns, self._copied, has_image=visual)["labels"][0].long()
        except Exception as error:
            reason = f"{type(error).__name__} {error}".strip().splitlines()[0]
            raise Ego2ExoError(
                f"--version {self.settings['version']}: LLaVA cannot write the sample with the id {sample.get('id')!r} "
                f"by this template and the tokenizer of {self.settings['model_name_or_path']} ({reason})",
                "the conversation template that the base was trained with, and samples that it can write",
                "give another --version, or fix the sample",
            ) from error


def student_tokenizer(settings: Settings) -> Any:
    """The tokenizer as LLaVA's train script makes it, by letters in the base's path, but for the padding side.

    Raises:
        Ego2ExoError: the base has none.
    """
    path, version = str(settings["model_name_or_path"]), settings["version"]
    fast = any(letters in path.lower() for letters in _FAST)
    slow = detect() == PYPI or not fast and any(letters in path.lower() for letters in _SLOW)
    options: dict[str, Any] = {"use_fast": False} if slow else {}
    tokenizer = read_tokenizer(path, model_max_length=settings["model_max_length"], **options)
    if version == "v0":
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    elif tokenizer.unk_token is not None or version == "v0.5" or detect() == PYPI:
        tokenizer.pad_token = tokenizer.unk_token
    tokenizer.add_tokens(added_tokens(settings.values), special_tokens=True)
    return tokenizer


def check_version(settings: Settings) -> None:
    """The template's name, and whether it is the one of the base's class where that is certain.

    Raises:
        Ego2ExoError: LLaVA has no such template (it would take vicuna_v1), or none is given and the class has one.
    """
    from llava.conversation import SeparatorStyle, conv_templates

    version, base, known = settings["version"], settings["model_name_or_path"], ", ".join(conv_templates)
    meant = CERTAIN.get(_class_of(settings) or "")
    meant = meant if meant in conv_templates else None
    refuse(
        (version not in conv_templates and version not in _LEGACY,
         f"--version {version}: LLaVA has no such conversation template", known, _give(meant)),
        (meant and "version" not in settings.given,
         f"no --version, and LLaVA's default {version} is not the conversation template of {base}", known,
         _give(meant)),
    )  # fmt: skip
    if meant is None:
        return
    given = conv_templates.get(version)
    plain = given is not None and given.sep_style == SeparatorStyle.PLAIN
    if not plain and (given is None or given.version != conv_templates[meant].version):
        warnings.warn(
            f"--version {version}: {base} is of a class that LLaVA trains with {meant}; the student must be prompted "
            "with the template that it is trained with.",
            stacklevel=2,
        )


def check_supervision(settings: Settings, preview: PreprocessPreview, samples: Sequence[dict[str, Any]]) -> None:
    """Whether LLaVA leaves answer tokens to train on: with a template that does not fit it masks whole samples.

    Args:
        settings: the run's.
        preview: of the run.
        samples: some of its samples.

    Raises:
        Ego2ExoError: none of the samples has a supervised token of its answers, or LLaVA cannot write one.
    """
    masked = [sample for sample in samples if not bool(preview.content.own(preview.labels(sample)[None]).any())]
    if not masked:
        return
    given = f"--version {settings['version']}: {len(masked)} of {len(samples)} samples have no token to train on"
    if len(masked) == len(samples):
        raise Ego2ExoError(
            f"{given}: LLaVA masks their answers with this template and the tokenizer of "
            f"{settings['model_name_or_path']}",
            "the conversation template that the base was trained with",
            _give(CERTAIN.get(_class_of(settings) or "")),
        )
    names = shorten_list([f"id {sample.get('id')!r}" for sample in masked])
    warnings.warn(f"{given}: LLaVA masks their answers ({names}).", stacklevel=2)


def _give(meant: str | None) -> str:
    return f"give --version {meant or 'the one that the base was trained with'}"
