"""Questions about one video, answered as `teach` and `eval` have a checkpoint answer them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ...errors import Ego2ExoError
from ...video import Clip, read_video
from ...video.limits import VideoLimits
from ..model.shared_encoding import remembered_encoding
from .answerer import Answerer, Generation, explain_oom, load_answerer
from .clip_jobs import PreparedClip, preface_of
from .option_scoring import MultipleChoiceQuestion, letter_scores
from .settings import InferenceOptions, InferenceSettings, resolve_inference_settings
from .steering import Row, Steering

_OPTIONS = ("template", "frames_upbound", "video_fps", "force_sample", "time_instruction", "bits", "dtype")
# A command's flag without its dashes -> the argument of `ask`.
_ARGUMENTS = {name.replace("_", "-"): name for name in (*_OPTIONS, "max_new_tokens")}
_ARGUMENTS |= {limit.name.replace("_", "-"): f"{limit.name} of limits" for limit in fields(VideoLimits)}
_ARGUMENTS |= {"model": "student", "model-base": "base", "options": "choices"}


@contextlib.contextmanager
def renamed_flags(names: Mapping[str, str]) -> Iterator[None]:
    """Errors of the block name flags, which they know without dashes, by other names."""
    try:
        yield
    except Ego2ExoError as error:
        texts = (error.given, error.allowed, error.remedy)
        flag = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?![\w-])")
        named = (flag.sub(lambda match: names.get(match[1], match[0]), text) for text in texts)
        raise Ego2ExoError(*named) from error.__cause__


@dataclass(frozen=True)
class VideoModel:
    """A checkpoint that is ready to be asked about videos, and how it is asked."""

    answerer: Answerer
    settings: InferenceSettings

    def prepare(self, clip: Clip) -> PreparedClip:
        """A clip as the model sees it."""
        return PreparedClip(self.answerer.preprocess(clip.frames), preface_of(clip, self.settings))

    def one_encoding(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block questions of either kind about one clip share one encoding of it."""
        return remembered_encoding(self.answerer.model)

    def answers(self, clip: PreparedClip, questions: Sequence[str]) -> list[Generation]:
        """A greedy answer to each question; the clip is encoded once.

        Raises:
            Ego2ExoError: the clip with a question is too long, or memory runs out.
        """
        texts = [clip.preface + question for question in questions]
        with explain_oom(1, len(texts), "take fewer frames (--frames-upbound) or --bits 4"):
            (found,) = self.answerer.answer([clip.pixels], [texts])
        if isinstance(found, Ego2ExoError):
            raise found
        return found

    def generate(
        self, clips: Sequence[PreparedClip], prompts: Sequence[str], rows: Sequence[Row]
    ) -> list[Ego2ExoError | None]:
        """Answers of several requests in one batch, into their rows; an error for one whose clip is too long.

        `prompts` are whole ones, each with its clip's preface.
        """

        def ask(fitting: Sequence[Any], asked: Sequence[Sequence[tuple[str, Row]]]) -> list[None]:
            (texts, own) = zip(*(one for (one,) in asked), strict=True)
            steering = Steering(own, self.answerer.tokenizer, self.answerer.stops)
            self.answerer.generate(fitting, [[text] for text in texts], steering)
            for row, length in zip(own, self.answerer.lengths, strict=True):
                row.prompt_tokens = length
            return [None] * len(own)

        asked = [[pair] for pair in zip(prompts, rows, strict=True)]
        with explain_oom(len(clips), len(clips), "ask about fewer frames"), torch.inference_mode():
            found = self.answerer.each([clip.pixels for clip in clips], asked, ask)
        return [one if isinstance(one, Ego2ExoError) else None for one in found]

    def probabilities(
        self, clip: PreparedClip, asked: Sequence[tuple[str, Sequence[str]]], whole: bool = False
    ) -> list[dict[str, float]]:
        """For each question with its choices choice -> probability: the likelihoods of their whole texts, as shares.

        The clip is encoded once. `whole`: the questions are prompts with the clip's preface already.

        Raises:
            Ego2ExoError: as :meth:`answers`; a question has fewer than two choices, or two that are alike.
        """
        for _, choices in asked:
            check_choices(choices)
        preface, rows = "" if whole else clip.preface, sum(len(choices) for _, choices in asked)
        questions = [MultipleChoiceQuestion(preface + text, tuple(choices), whole) for text, choices in asked]
        with explain_oom(1, rows, "take fewer frames (--frames-upbound) or --bits 4"):
            (found,) = letter_scores(self.answerer, [clip.pixels], [questions])
        if isinstance(found, Ego2ExoError):
            raise found
        shares = [torch.tensor(list(scores.values())).softmax(0).tolist() for scores in found]
        return [dict(zip(scores, own, strict=True)) for scores, own in zip(found, shares, strict=True)]


def check_questions(questions: Sequence[str]) -> None:
    """Refuse a question without a word."""
    if not questions or not all(text.strip() for text in questions):
        raise Ego2ExoError("an empty question", "a text", "ask something")


def check_choices(choices: Sequence[str]) -> None:
    """Refuse what no probability can be shared among."""
    if len(set(choices)) < len(choices) or len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise Ego2ExoError(f"--options {', '.join(choices)}", "two or more different texts", "correct them")


def ask(
    student: str | Path | tuple[Any, Any, Any, Any], video: str | Path, question: str | Sequence[str],
    base: str | Path | None = None, *, choices: Sequence[str] | None = None, start_s: float | None = None,
    end_s: float | None = None, limits: VideoLimits | None = None, max_new_tokens: int = 256, **options: Any,
) -> Any:  # fmt: skip
    """A greedy answer to each question about one video, or the probability of each choice::

        from llava_ego2exo import ask
        print(ask("checkpoints/student", "kitchen.mp4", "What does the person do?", base="checkpoints/base"))

    Whatever is not given is taken from the checkpoint: its template, whether it always takes the same number of frames,
    and whether it is given their times.

    Args:
        student: folder or hub name of a checkpoint, which is loaded for this call; for several videos what LLaVA's
            `load_pretrained_model` returns: (tokenizer, model, image processor, context length).
        video: path of the file; read, and encoded, once.
        question: without placeholder; one, or several.
        base: what the student was trained from, where its folder holds no whole model.
        choices: possible answers, two or more.
        start_s: where the part to ask about begins, in seconds; None: at the start.
        end_s: where it ends; None: at the end.
        limits: what a video may be, and how long reading it may take; None: the defaults.
        max_new_tokens: most tokens of the answer.
        options: `template`, `frames_upbound`, `video_fps`, `force_sample`, `time_instruction`, and for a folder or hub
            name `bits` and `dtype`; see :class:`~.settings.InferenceOptions`.

    Returns:
        The answer's text; with `choices` a dict, choice -> probability among them. A list of these for several
        questions.

    Raises:
        Ego2ExoError: an option is wrong, the video cannot be read (both before any weight loads), the student does not
            load, or the video is too long for it.
    """
    questions = [question] if isinstance(question, str) else list(question)
    with renamed_flags(_ARGUMENTS):
        unknown = options.keys() - _OPTIONS
        if unknown:
            raise Ego2ExoError(
                f"ask has no option {', '.join(sorted(unknown))}", ", ".join(_OPTIONS), "correct the name"
            )
        check_questions(questions)
        if choices is not None:
            check_choices(choices)
        where = (video, start_s, end_s, limits)
        model, clip = open_video(student, base, where, InferenceOptions(**options), max_new_tokens, tuple(options))
        prepared = model.prepare(clip)
        found: list[Any] = (
            [answer.text for answer in model.answers(prepared, questions)] if choices is None
            else model.probabilities(prepared, [(text, choices) for text in questions])
        )  # fmt: skip
    return found[0] if isinstance(question, str) else found


def open_video(
    student: str | Path | tuple[Any, Any, Any, Any], base: str | Path | None,
    where: tuple[str | Path, float | None, float | None, VideoLimits | None], options: InferenceOptions,
    max_new_tokens: int = 256, given: Sequence[str] = (),
) -> tuple[VideoModel, Clip]:  # fmt: skip
    """A model and a video for it, which is read before any weight loads.

    Args:
        student, base, max_new_tokens: as of :func:`ask`.
        where: the video's path, where it begins and ends, and its limits.
        options: how the model is asked.
        given: names of those that the user chose.
    """
    loaded = isinstance(student, tuple)
    unused = [name for name in ("dtype", "bits") if name in given] + (["base"] if base is not None else [])
    if loaded and unused:
        raise Ego2ExoError(
            f"{', '.join(unused)} for a model that is loaded already", "what asking needs",
            "leave it out, or give the checkpoint's folder",
        )  # fmt: skip
    config = student[1].config.to_dict() if loaded else None
    path = (config.get("_name_or_path") or "the model") if loaded else str(student)
    base = None if base is None else str(base)
    settings = resolve_inference_settings(path, base, options, max_new_tokens, config)
    video, start_s, end_s, limits = where
    clip = read_video(
        str(video), settings.video_fps, settings.frames_upbound, settings.force_sample, start_s, end_s, limits
    )
    if loaded:
        answerer = Answerer(student, settings.template, settings.max_new_tokens)  # type: ignore[arg-type]
    else:
        answerer = load_answerer(path, base, settings)
    return VideoModel(answerer, settings), clip
