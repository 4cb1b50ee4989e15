"""Faults of a teacher, its stored answers and their samples, found before any weight loads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ...config import PREFIX
from ...errors import Ego2ExoError, refuse
from ...method.losses import require_equal_vocabularies
from ...run_config import BottleneckConfig, DistillConfig, ReadingConfig
from ...video.limits import VideoLimits
from ..checkpoint.config import class_key, read_config, read_tokenizer
from ..checkpoint.files import describe
from ..checkpoint.vocabulary import vocabulary_size
from ..loader import check_base
from ..settings import Settings
from ..training.dataset import has_teacher
from ..training.stored_answers import TurnRow, beginnings, find_turn, is_key, read_logits
from .data import Fault, RowCheck
from .templates import PreprocessPreview

_FLAGS = tuple(DistillConfig().to_dict())
_CACHE_FLAGS = (f"{PREFIX}frame_cache", f"{PREFIX}frame_cache_gb")


def refuse_without_tokens(settings: Settings) -> None:
    """Flags of distilling, stages and reading belong to runs with ego tokens; LLaVA's own trainer would ignore them.

    A cache of frames serves any run.

    Raises:
        Ego2ExoError: some are given to another run.
    """
    groups = (_FLAGS, BottleneckConfig().to_dict(), ReadingConfig().to_dict(), VideoLimits().to_dict(PREFIX))
    theirs = {f"{PREFIX}preset", *(flag for group in groups for flag in group)} - set(_CACHE_FLAGS)
    given = sorted(settings.given & theirs)
    refuse(
        (given, f"{_flags(given)} without --ego2exo True", "a run with ego tokens",
         "add --ego2exo True, or leave them out"),
    )  # fmt: skip


def check_distilling(settings: Settings) -> DistillConfig:
    """Flags, student and teacher; the samples are left to :class:`SampleCheck`.

    Raises:
        Ego2ExoError: they cannot work together.
    """
    weight = f"{PREFIX}kd_weight"
    others = sorted(settings.given & set(_FLAGS) - {weight})
    refuse(
        (settings[weight] == 0 and others, f"{_flags(others)} with --{weight} 0",
         f"--{weight} above 0 with these flags", "set a weight, or leave the other flags out"),
    )  # fmt: skip
    config = DistillConfig(**{name.removeprefix(PREFIX): settings[name] for name in _FLAGS})
    if config.on:
        require_own_loss(settings, f"--{weight} above 0", "the KL would be lost, or its rows not match")
        parallel, router = settings.base.get("pretraining_tp", 1), settings.base.get("output_router_logits")
        kl = f"in the base's config.json with --{weight} above 0"
        refuse(
            (parallel > 1, f"pretraining_tp {parallel} {kl}: its head is not called as a module", "1", "set it to 1"),
            (router, f"output_router_logits true {kl}: the router's loss would be lost", "false", "set it to false"),
        )
        length = settings["model_max_length"]
        refuse(
            (config.on_policy and length is not None and config.sample_tokens >= length,
             f"--{PREFIX}sample_tokens {config.sample_tokens} with --model_max_length {length}",
             "samples that leave room for clip and question", f"give fewer --{PREFIX}sample_tokens"),
        )  # fmt: skip
        {"self": _check_self, "cached": _check_cached, "path": _check_path}[config.kind](settings, config)
    return config


def require_own_loss(settings: Settings, flag: str, reason: str) -> None:
    """Some flags need the loss of the trainer `ego2exo`, on batches that nothing splits.

    Args:
        settings: the run's.
        flag: with its value.
        reason: what would go wrong.

    Raises:
        Ego2ExoError: another trainer, label smoothing, or several GPUs in one process.
    """
    trainer, smoothing = settings["trainer_type"], settings["label_smoothing_factor"]
    alone = "LOCAL_RANK" not in os.environ and not settings["use_cpu"] and not settings["no_cuda"]
    cases = (
        (trainer not in (None, "ego2exo"), f"--trainer_type {trainer}", "leave it out"),
        (smoothing, f"--label_smoothing_factor {smoothing}", "leave it out"),
        (alone and torch.cuda.device_count() > 1, "several GPUs in one process (DataParallel)",
         "start with torchrun, or show one GPU (CUDA_VISIBLE_DEVICES=0)"),
    )  # fmt: skip
    refuse(*((holds, f"{flag} with {other}: {reason}", "each without the other", do) for holds, other, do in cases))


def _flags(names: list[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _check_self(settings: Settings, _config: DistillConfig) -> None:
    """The base must still be there when LoRA and ego tokens are off."""
    parts = {part.strip() for part in (settings["mm_tunable_parts"] or "").split(",")}
    tuned = [f"--mm_tunable_parts {part}" for part in ("mm_vision_tower", "mm_vision_resampler") if part in parts]
    names = ("unfreeze_mm_vision_tower", "tune_mm_vision_resampler", "unfreeze_language_model")
    tuned += [f"--{name} True" for name in names if settings[name]]
    if settings["lora_bias"] not in (None, "none"):
        tuned.append(f"--lora_bias {settings['lora_bias']}")
    other = f"pass the base itself as --{PREFIX}teacher"
    refuse(
        (not settings["lora_enable"], f"--{PREFIX}teacher self without LoRA: the base's weights would change with the "
         "student's", "--lora_enable True", f"add it, or {other}"),
        (tuned, f"--{PREFIX}teacher self with {', '.join(tuned)}: weights of the base itself would train",
         "LoRA, the projector and the ego tokens alone", f"leave these out, or {other}"),
    )  # fmt: skip


def _check_cached(_settings: Settings, config: DistillConfig) -> None:
    if not Path(str(config.answers), "top_k").is_dir():
        raise Ego2ExoError(
            f"--{PREFIX}answers {config.answers} is no folder with a folder top_k",
            "an answers folder with logits",
            "make it with `teach --top-k`",
        )


def _check_path(settings: Settings, config: DistillConfig) -> None:
    try:
        found = read_config(config.teacher)
    except Ego2ExoError as error:
        raise Ego2ExoError(
            f"--{PREFIX}teacher {config.teacher}: {error.given}",
            "self, cached, or the folder or hub name of a LLaVA checkpoint",
            "check the path",
        ) from error
    if class_key(found, config.teacher) is None:
        raise Ego2ExoError(
            f"--{PREFIX}teacher {config.teacher} is a {found.get('model_type')!r}",
            "self, cached, or a LLaVA checkpoint",
            "pass the teacher's folder or hub name, or leave the flag out for the student's own base",
        )
    check_base(describe(config.teacher), config.teacher_base, found, f"--{PREFIX}teacher_base")
    if "vocab_size" in settings.base and "vocab_size" in found:
        size = settings.base["vocab_size"]  # rows behind the tokenizer's last token are cut off in both
        added = vocabulary_size(settings.values, str(settings["model_name_or_path"]), size)
        require_equal_vocabularies(max(size, added), found["vocab_size"])
    student, teacher = str(settings["model_name_or_path"]), config.teacher_base or config.teacher
    # Equal sizes do not make equal tokens.
    different = read_tokenizer(student).get_vocab().items() ^ read_tokenizer(teacher).get_vocab().items()
    if different:
        words = sorted({word for word, _ in different})
        raise Ego2ExoError(
            f"the tokenizers of {student} and {teacher} differ in {len(words)} token(s): {words[:3]}",
            "one tokenizer for student and teacher",
            "take a teacher of the same language model, or train on its answers alone: --ego2exo_kd_weight 0",
        )


class SampleCheck:
    """What a KL needs of each sample: its ego view, or stored logits of its own answers."""

    def __init__(self, settings: Settings, config: DistillConfig) -> None:
        self.settings, self.config, self.cached = settings, config, config.kind == "cached"
        key, source = "ego_video", ""
        if self.cached:
            key, source = "answer_keys", f" from {config.answers}, whose answers `teach --top-k` gave logits"
            self._tokenizer = read_tokenizer(str(settings["model_name_or_path"]))
        self.allowed = f'for the KL "{key}", or "replay": true for general data'
        self.remedy = f"make the file with `llava-ego2exo targets`{source}, or train without --{PREFIX}kd_weight"
        self._widths: set[int] = set()

    def __call__(self, sample: dict[str, Any], rows: RowCheck) -> Iterator[Fault]:
        """The faults of a sample; `rows` checks its files."""
        if not isinstance(sample.get("replay", False), bool):
            yield "replay", f"has {sample['replay']!r} as replay, which is true or false"
        elif has_teacher(sample) and self.cached:
            yield from (("answer_keys", fault) for fault in self._stored(sample))
        elif has_teacher(sample):
            yield from self._ego(sample, rows)

    def _ego(self, sample: dict[str, Any], rows: RowCheck) -> Iterator[Fault]:
        if sample.get("ego_video") is None:
            yield "ego_video", 'has no ego_video for the KL (general data has "replay": true)'
        elif "video" not in sample:
            yield "ego_video", "needs one video and one ego_video, each a path, for the KL"
        else:
            yield from rows.file_faults("ego_video", sample["ego_video"])

    def _stored(self, sample: dict[str, Any]) -> Iterator[str]:
        answers = [turn["value"] for turn in sample["conversations"] if turn["from"] in ("gpt", "assistant")]
        keys = sample.get("answer_keys")
        if not isinstance(keys, list):
            yield 'has no answer_keys for the stored logits (general data has "replay": true)'
        elif len(keys) != len(answers):
            yield f"has {len(keys)} answer_keys for {len(answers)} answer(s)"
        else:
            for key, answer in zip(keys, answers, strict=True):
                yield from self._answer(key, answer)

    def _answer(self, key: Any, answer: str) -> Iterator[str]:
        if not is_key(key):
            yield f"has {key!r} among its answer_keys, which are 32 hex digits"
            return
        try:
            arrays = read_logits(str(self.config.answers), key)
        except Ego2ExoError as error:
            yield error.given
            return
        self._widths.add(arrays["ids"].shape[1])
        top = max(arrays["ids"].max(initial=0), arrays["tokens"].max(initial=0))
        vocabulary = self.settings.base.get("vocab_size")
        text = self._tokenizer.decode(arrays["tokens"].tolist(), skip_special_tokens=True)
        if vocabulary is not None and top >= vocabulary:
            yield f"answer {key} has the token {top}, and the student's vocabulary has {vocabulary}"
        elif len(self._widths) > 1:
            yield f"answer {key} has another k than those before it: {sorted(self._widths)}"
        elif "".join(text.split()) != "".join(answer.split()):  # tokenizers add and drop blanks at their edges
            yield f"answer {key} is another text than the sample's, or of another tokenizer"


def require_alignment(folder: str, samples: Sequence[dict[str, Any]], preview: PreprocessPreview) -> str:
    """How many answers' stored tokens stand in what the student will read, and so have a KL, as text.

    Args:
        folder: the answers folder.
        samples: without fault.
        preview: of the run.

    Raises:
        Ego2ExoError: none, or LLaVA cannot write a sample.
    """
    found = total = 0
    for sample in filter(has_teacher, samples):
        labels = preview.labels(sample)
        places = (labels >= 0).nonzero()[:, 0]
        row, cursor = TurnRow(labels[places].tolist(), places.tolist(), cut=False), 0
        for key in sample["answer_keys"]:
            tokens = torch.from_numpy(read_logits(folder, key)["tokens"])
            turn = {"tokens": tokens, "beginnings": beginnings(tokens.tolist(), preview.tokenizer)}
            start, part = find_turn(row, turn, cursor)
            cursor = start + part.stop - part.start if part.stop > part.start else cursor
            found += part.stop > part.start
            total += 1
    text = f"stored logits match {found} of {total} sampled answers"
    if total and not found:
        raise Ego2ExoError(
            f"{text}: as the student reads them, they are other tokens than the teacher wrote in {folder}",
            "answers that the student's tokenizer and --version split as the teacher did",
            "take the teacher's own base as student, or its checkpoint as --ego2exo_teacher, or --ego2exo_kd_weight 0",
        )
    return text
