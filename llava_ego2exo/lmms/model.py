"""A LLaVA checkpoint of any kind as a model of lmms-eval: whole, LoRA or quantized, and never blind."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from lmms_eval.api.model import lmms

from ..errors import Ego2ExoError
from .generation import GenerationRequest, generate_replies, max_new_tokens


class LlavaEgo2Exo(lmms):
    """``--model llava_ego2exo``: prompted as by `llava-ego2exo eval`, so both give the same replies.

    An error ends the process with exit code 1: lmms-eval itself swallows exceptions and ends with 0.

    Args:
        pretrained: folder or hub name of the checkpoint.
        model_base: what it was trained from, where it holds no whole model.
        load_4bit: quantize to 4 bits.
        load_8bit: quantize to 8 bits.
        dtype: of weights that are not quantized; None: bfloat16 on a GPU, else float32.
        conv_template: LLaVA's conversation template; None: that of its class where only one fits.
        max_frames_num: most frames of a clip; 0 for no bound.
        video_fps: frames taken a second.
        force_sample: always take `max_frames_num` frames; None: as its config says.
        time_instruction: put the times of the frames into the prompt; None: as its config says.
        batch_size: clips that go through the model together, each with all its questions.
        device: as lmms-eval passes it on; only the device that is taken anyway is allowed.
        max_batch_size: not used; lmms-eval passes it.
        others: refused.

    Raises:
        SystemExit: something given is wrong.
    """

    def __init__(
        self, pretrained: str = "", model_base: str | None = None, load_4bit: bool = False, load_8bit: bool = False,
        dtype: str | None = None, conv_template: str | None = None, max_frames_num: int = 32, video_fps: int = 1,
        force_sample: bool | None = None, time_instruction: bool | None = None, batch_size: int | str = 1,
        device: str | None = None, max_batch_size: int | None = None, **others: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        with _exit_on_error():
            _check(pretrained, others, batch_size, load_4bit and load_8bit)
            self._batch_size = int(batch_size)
            self._settings = _settings(
                pretrained, model_base, template=conv_template, dtype=dtype, frames_upbound=max_frames_num,
                bits=4 if load_4bit else 8 if load_8bit else 16, force_sample=force_sample,
                time_instruction=time_instruction, video_fps=video_fps,
            )  # fmt: skip
            self._answerer = _load(pretrained, model_base, self._settings)
            if device is not None and device not in (str(self.device), self.device.type):
                remedy = "leave it out, and choose a GPU by CUDA_VISIBLE_DEVICES"
                raise Ego2ExoError(f"--device {device}", f"{self.device}, where the model is", remedy)

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self._answerer.model.device

    @property
    def batch_size(self) -> int:
        """Clips that go through the model together."""
        return self._batch_size

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Replies to requests about one video each, in their order.

        Raises:
            SystemExit: a video does not decode or is too long for the model, or a request is of another kind.
        """
        with _exit_on_error():
            questions = [self._generation_request(request.args) for request in requests]
            return generate_replies(self._answerer, self._settings, questions, self._batch_size, quiet=self.rank != 0)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered: the tasks are read from generated text."""
        return self._refuse("loglikelihood")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        return self._refuse("several rounds")

    def _generation_request(self, arguments: tuple[Any, ...]) -> GenerationRequest:
        text, wanted, doc_to_visual, number, task, split = arguments
        visuals = doc_to_visual(self.task_dict[task][split][number])
        if not (isinstance(visuals, list) and len(visuals) == 1 and isinstance(visuals[0], str)):
            given = f"task {task}: a question with {visuals!r:.100}"
            raise Ego2ExoError(given, "one path of a video", "use another model for it")
        return GenerationRequest(visuals[0], text, max_new_tokens(wanted, task))

    def _refuse(self, what: str) -> Any:
        with _exit_on_error():
            raise Ego2ExoError(f"a task that asks for {what}", "tasks of generated text", "use another model")


def _check(pretrained: str, others: dict[str, Any], batch_size: int | str, both: Any) -> None:
    if not pretrained:
        raise Ego2ExoError("no checkpoint", "--model_args pretrained=CKPT", "give one")
    if others:
        raise Ego2ExoError(f"--model_args {', '.join(others)}", "those of docs/lmms-eval.md", "correct or drop them")
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise Ego2ExoError(f"--batch_size {batch_size}", "1 or more", "give a number of clips")
    if both:
        raise Ego2ExoError("load_4bit and load_8bit", "one of them", "drop one")


def _settings(path: str, base: str | None, **chosen: Any) -> Any:
    from ..host.inference.settings import InferenceOptions, resolve_inference_settings

    return resolve_inference_settings(path, base, InferenceOptions(**chosen))


def _load(path: str, base: str | None, settings: Any) -> Any:
    from ..host.inference.answerer import load_answerer

    # Each of several processes has a GPU of its own.
    local = int(os.environ.get("LOCAL_RANK", 0)) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
    return load_answerer(path, base, settings, local)


@contextlib.contextmanager
def _exit_on_error() -> Iterator[None]:
    """An error inside the block ends the process, with its message on standard error."""
    try:
        yield
    except Ego2ExoError as error:
        sys.exit(f"llava_ego2exo: error: {error}")
