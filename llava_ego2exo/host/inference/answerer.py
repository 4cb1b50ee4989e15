"""A frozen LLaVA model that answers several queries about several clips at once, greedily."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ..checkpoint.config import torch_dtype
from ..hooks.install import register, substituted
from ..model.shared_encoding import shared_encoding
from .settings import InferenceSettings, positions, prompt, stop_ids
from .steering import Steering


@dataclass(frozen=True)
class Generation:
    """One answer."""

    text: str  # without special tokens, and without blanks at its ends
    tokens: Tensor  # (T,) what was generated, the end token included
    ended: bool  # the model ended it; False: the length limit did
    ids: Tensor | None = None  # (T, k) the likeliest tokens at each place, likeliest first; None where not asked for
    logits: Tensor | None = None  # (T, k) their logits before any processing


class Answerer:
    """Answers by LLaVA's own splicing and `generate`, with the checkpoint's own generation config but greedily.

    Args:
        loaded: what LLaVA's loader returned.
        template: name of a conversation template.
        max_new_tokens: most tokens of an answer, its end token included.
        top_k: how many of the likeliest tokens to keep at each place; 0: none.
    """

    def __init__(
        self, loaded: tuple[Any, Any, Any, Any], template: str, max_new_tokens: int = 256, top_k: int = 0
    ) -> None:
        self.tokenizer, self.model, self.image_processor, _ = loaded
        self.model.eval()
        self.template, self.max_new_tokens, self.top_k = template, max_new_tokens, top_k
        self.stops = stop_ids(self.model, self.tokenizer, template)
        self.lengths: list[int] = []  # of the last batch's rows, with their visual tokens

    def preprocess(self, frames: Any) -> Tensor:
        """Frames (T, H, W, 3) uint8 as the vision tower takes them, (T, 3, H, W)."""
        return self.image_processor.preprocess(list(frames), return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def answer(self, clips: Sequence[Tensor], questions: Sequence[Sequence[str]]) -> list[list[Any] | Ego2ExoError]:
        """Answers to each clip's questions, all in one batch; each clip goes through the vision tower once.

        Args:
            clips: (T, 3, H, W) each, preprocessed.
            questions: those of each clip, without placeholder.

        Returns:
            For each clip its answers (:class:`Generation`); an error for one that is too long for the model.
        """
        return self.each(clips, questions, self._generate)

    def each(
        self, clips: Sequence[Tensor], questions: Sequence[Sequence[Any]], ask: Callable[..., list[Any]]
    ) -> list[list[Any] | Ego2ExoError]:
        """As :meth:`answer`, by `ask`: (clips, questions) -> one result a question, inside :meth:`checked_lengths`.

        It is called again without the clips that turn out to be too long.
        """
        fitting = list(range(len(clips)))
        results: list[list[Any] | Ego2ExoError] = [[] for _ in clips]
        while fitting:
            try:
                found = iter(ask([clips[i] for i in fitting], [questions[i] for i in fitting]))
            except _TooLong as error:
                for place, length in error.lengths.items():
                    results[fitting[place]] = Ego2ExoError(
                        f"the clip with its query takes {length} positions, and the model has {error.room} for them",
                        "what leaves room for the answer",
                        "take fewer frames: --frames-upbound, --video-fps",
                    )
                fitting = [clip for place, clip in enumerate(fitting) if place not in error.lengths]
                continue
            for clip in fitting:
                results[clip] = [next(found) for _ in questions[clip]]
            break
        return results

    def room(self) -> int:
        """Most positions of a prompt with its video: what LLaVA does not cut off, and what leaves room to answer."""
        config = self.model.config
        context = positions(config.to_dict())
        limits = [getattr(config, "tokenizer_model_max_length", None)]
        limits += [context - self.max_new_tokens] if context else []
        return min((limit for limit in limits if limit is not None), default=2**31)

    def _generate(self, clips: Sequence[Tensor], questions: Sequence[Sequence[str]]) -> list[Generation]:
        return self.generate(clips, [[self.prompt(question) for question in asked] for asked in questions])

    def generate(
        self, clips: Sequence[Tensor], prompts: Sequence[Sequence[str]], steering: Steering | None = None
    ) -> list[Generation]:
        """One generation a prompt, all in one batch, inside :meth:`each`; `steering` is for requests of their own."""
        model = self.model
        rows = [self._tokens(text) for asked in prompts for text in asked]
        owners = [clip for clip, asked in enumerate(prompts) for _ in asked]
        videos = [clip.to(model.device, model.dtype) for clip in clips]
        images = [videos[clip] for clip in owners]
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad(rows, batch_first=True).to(model.device)
        mask = pad([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True).to(model.device)
        pad_id = self.tokenizer.pad_token_id
        if pad_id is None:
            pad_id = (self.stops or [0])[0]
        steps: list[tuple[Tensor, Tensor]] = []
        with contextlib.ExitStack() as stack:
            # On the left, whatever the checkpoint was trained with: new tokens go behind the last column of all rows.
            whole = {"tokenizer_padding_side": "left", "tokenizer_model_max_length": None}
            stack.enter_context(self.checked_lengths(owners))
            stack.enter_context(substituted(model.config, **whole))
            stack.enter_context(shared_encoding(model, images))
            stack.enter_context(last_logits(model, self.top_k, steps))
            out = model.generate(
                ids, attention_mask=mask, images=images, modalities=["video"] * len(images), do_sample=False,
                num_beams=1, use_cache=True, eos_token_id=self.stops,
                pad_token_id=pad_id, temperature=None, top_p=None, top_k=None,
                **({"max_new_tokens": self.max_new_tokens} if steering is None else steering.arguments()),
            )  # fmt: skip
        return self._generations(out.cpu(), steps)

    def _ids(self, question: str) -> Tensor:
        return self._tokens(self.prompt(question))

    def _tokens(self, text: str) -> Tensor:
        from llava.mm_utils import tokenizer_image_token

        return tokenizer_image_token(text, self.tokenizer, return_tensors="pt")

    def prompt(self, question: str) -> str:
        """A question as the model was trained to see it, up to where the answer begins."""
        return prompt(question, self.template, bool(getattr(self.model.config, "mm_use_im_start_end", False)))

    def _generations(self, out: Tensor, steps: list[tuple[Tensor, Tensor]]) -> list[Generation]:
        found = []
        top = [torch.stack(part, 1).cpu() for part in zip(*steps, strict=True)]
        for index, row in enumerate(out):
            ends = torch.isin(row, torch.tensor(self.stops)).nonzero()[:1, 0].tolist()
            tokens = row[: ends[0] + 1 if ends else len(row)]
            text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            found.append(Generation(text, tokens.clone(), bool(ends), *[part[index, : len(tokens)] for part in top]))
        return found

    @contextlib.contextmanager
    def checked_lengths(self, owners: list[int]) -> Iterator[None]:
        """LLaVA silently cuts off what is too long, and with it the query: here :meth:`each` is informed.

        `owners` holds for each row of the batch the number of its clip.
        """
        original, room, first = self.model.prepare_inputs_labels_for_multimodal, self.room(), True

        def prepare(*args: Any, **kwargs: Any) -> Any:
            nonlocal first
            result = original(*args, **kwargs)
            if not first:  # a step of `generate`, whose rows have grown
                return result
            first, lengths = False, result[2].sum(1).tolist()
            self.lengths = lengths
            over = {clip: length for clip, length in zip(owners, lengths, strict=True) if length > room}
            if over:
                raise _TooLong(over, room)
            return result

        with substituted(self.model, prepare_inputs_labels_for_multimodal=prepare):
            yield


class _TooLong(Exception):
    def __init__(self, lengths: dict[int, int], room: int) -> None:
        self.lengths, self.room = lengths, room  # clip's number in its batch -> positions it takes; how many there are


@contextlib.contextmanager
def last_logits(model: Any, k: int, steps: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside the block only each row's last logits are computed, and their k largest are added to `steps`.

    transformers before 4.45 computes the logits of a whole prompt, in float32: gigabytes a row with thousands of
    visual tokens, of which `generate` reads the last place.
    """
    head = model.get_output_embeddings()

    def before(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][:, -1:], *args[1:])

    def after(_module: Any, _args: Any, output: Tensor) -> None:
        top = output[:, -1].float().topk(k)
        steps.append((top.indices.int(), top.values.half()))

    handles = [head.register_forward_pre_hook(before)]
    handles += [head.register_forward_hook(after)] if k else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def explain_oom(clips: int, rows: int, remedy: str = "") -> Iterator[None]:
    """Inside the block, running out of GPU memory becomes an error with a remedy; "": flags of `teach`, `eval`."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise Ego2ExoError(
            f"the GPU's memory ran out with {clips} clip(s) and {rows} question(s) at once",
            "what fits",
            remedy
            or "run the same command with a smaller --batch-size, which resumes where this one stopped; with "
            "--batch-size 1, start anew with fewer --frames-upbound or with --bits 4",
        ) from error


def load(path: str, base: str | None = None, **options: Any) -> tuple[Any, Any, Any, int]:
    """Tokenizer, model, image processor and context length, by LLaVA's own loader with the plugin in it."""
    register()
    from llava.model.builder import load_pretrained_model

    return load_pretrained_model(path, base, "llava_ego2exo", **options)


def load_answerer(
    path: str, base: str | None, settings: InferenceSettings, local_rank: int | None = None, top_k: int = 0
) -> Answerer:  # fmt: skip
    """A checkpoint on the GPU `local_rank`; None: on all GPUs that are visible, or the CPU.

    Raises:
        Ego2ExoError: it does not load, or does not fit on the GPU.
    """
    from ..hooks.flavour import PYPI, detect

    bits = settings.bits
    options: dict[str, Any] = {"torch_dtype": settings.dtype, "load_4bit": bits == 4, "load_8bit": bits == 8}
    if torch.cuda.is_available() and local_rank is not None:
        torch.cuda.set_device(local_rank)
        device = f"cuda:{local_rank}"
        options |= {"device": device} if detect() == PYPI else {"device_map": {"": device}}
    try:
        loaded = load(path, base, **options)
    except torch.cuda.OutOfMemoryError as error:
        raise Ego2ExoError(
            f"the GPU's memory ran out while {path} was loaded in {bits} bits", "what fits", "give --bits 4"
        ) from error
    except Ego2ExoError:
        raise
    except Exception as error:
        # Whatever a damaged or missing file makes the libraries below throw.
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise Ego2ExoError(
            f"{path} does not load: {reason}",
            "a checkpoint with whole weights, its tokenizer, and its vision tower at hand",
            "fix it, and run the same command again",
        ) from error
    # LLaVA leaves the tower in float16, or on the first GPU, in some of these cases.
    tower = loaded[1].get_vision_tower().to(torch_dtype(settings.dtype))
    if local_rank is not None:
        tower.to(loaded[1].device)
    return Answerer(loaded, settings.template, settings.max_new_tokens, top_k)
