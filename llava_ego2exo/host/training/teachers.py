"""The teachers of the KL: the student's own base, another checkpoint, or stored logits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import Ego2ExoError
from ...method.losses import FullTeacher, Teacher, TopKTeacher, require_equal_vocabularies
from ...run_config import DistillConfig
from ..hooks.install import substituted
from ..merge import device_options
from ..model.answer_tokens import Answers, align_answers, answer_states, llava_model
from ..model.inspection import tokens_off
from ..model.projector import CHILD
from ..settings import RUN
from .stored_answers import Turn, align_turns

CLIPS = "clips"  # in a teacher's part of a batch: the files of both views


@dataclass
class StateTargets:
    """A teacher's hidden states (N', D') for some rows of the student's batch, with the teacher's own answer tokens."""

    rows: list[int]
    answers: Answers
    hidden: torch.Tensor
    head: Callable[[torch.Tensor], torch.Tensor]
    exo: StateTargets | None = None  # the teacher's on the student's own inputs, all rows
    bound: float = math.inf  # between the two, see FullTeacher

    def align(self, answers: Answers) -> tuple[torch.Tensor, Teacher | None, int]:
        """The student's tokens (M,) that have targets, the targets, and how many should have some and have none."""
        at, theirs, unmatched = align_answers(answers, self.answers, self.rows)
        exo = None
        if self.exo is not None:
            here, there, _ = align_answers(answers, self.exo.answers, self.exo.rows)
            place = torch.full_like(answers.tokens, -1)
            place[here] = there.to(place.device)
            both = place[at] >= 0
            at, theirs, unmatched = at[both], theirs[both.to(theirs.device)], unmatched + int((~both).sum())
            exo = self.exo.hidden[place[at].to(self.exo.hidden.device)]
        hidden = self.hidden[theirs.to(self.hidden.device)]
        return at, FullTeacher(self.head, hidden, exo, self.bound), unmatched


@dataclass
class StoredTargets:
    """For some rows of the student's batch their turns, each with `tokens` (T,), `ids` (T, k) and `logits` (T, k)."""

    rows: list[int]
    turns: list[list[Turn]]

    def align(self, answers: Answers) -> tuple[torch.Tensor, Teacher | None, int]:
        """See :meth:`StateTargets.align`."""
        at, parts, unmatched = align_turns(answers, self.rows, self.turns)
        if not parts:
            return at, None, unmatched
        ids = torch.cat([turn["ids"][part] for turn, part in parts]).to(at.device, torch.int64)
        # Stored in float16, which autocast to bfloat16 refuses to join.
        logits = torch.cat([turn["logits"][part].float() for turn, part in parts]).to(at.device)
        return at, TopKTeacher(ids, logits), unmatched


class SelfTeacher:
    """The student's own base: LoRA and ego tokens off, the ordinary projector as it was before training.

    Of a video it gets all ordinary tokens, or those that the base itself was trained on (`pool`).

    It is made before any training step, and before a resumed run loads its weights.

    Raises:
        Ego2ExoError: weights train that cannot be switched off.
    """

    def __init__(self, model: Any, pool: str | None = None) -> None:
        parts = ("lora_", "mm_projector")
        others = [n for n, p in model.named_parameters() if p.requires_grad and not any(part in n for part in parts)]
        if others:
            raise Ego2ExoError(
                f"--ego2exo_teacher self, and {len(others)} weights of the base itself train: {others[0]}, ...",
                "LoRA, the projector and the ego tokens alone",
                "leave these weights frozen, or pass the base as --ego2exo_teacher",
            )
        self.model, self.pool = model, pool
        projector = llava_model(model).get_model().mm_projector
        with substituted(projector, _modules={n: m for n, m in projector._modules.items() if n != CHILD}):
            self.frozen = copy.deepcopy(projector).requires_grad_(False).eval()

    def targets(self, batch: dict[str, Any]) -> StateTargets:
        """The base's targets for the teacher's part of a batch."""
        inner = llava_model(self.model)
        rows, inputs = split_rows(batch)
        with self.as_base():
            answers, hidden = answer_states(inner, self.model, inputs)
        return StateTargets(rows, answers, hidden, inner.get_output_embeddings().forward)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Inside the block the model is its base."""
        inner = llava_model(self.model)
        projector = inner.get_model().mm_projector
        with ExitStack() as stack:
            stack.enter_context(tokens_off())
            stack.enter_context(substituted(inner.config, ego2exo_pool=self.pool))
            stack.enter_context(self.model.disable_adapter())
            stack.enter_context(substituted(projector, forward=self.frozen.forward))
            stack.enter_context(evaluating(self.model))
            yield


class LoadedTeacher:
    """Another checkpoint, frozen, beside the student; it runs in the student's autocast."""

    def __init__(self, model: Any, autocast: Any) -> None:
        self.model, self.autocast = model.eval().requires_grad_(False), autocast

    def targets(self, batch: dict[str, Any]) -> StateTargets:
        """Its targets for the teacher's part of a batch."""
        rows, inputs = split_rows(batch)
        with self.autocast():
            answers, hidden = answer_states(self.model, self.model, inputs)
        return StateTargets(rows, answers, hidden, self._head)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            return self.model.get_output_embeddings()(hidden)


class StoredTeacher:
    """No model: the logits come with the batch."""

    def targets(self, batch: dict[str, Any]) -> StoredTargets:
        """The stored logits of the rows of a batch."""
        return StoredTargets(batch["rows"], batch["turns"])


def split_rows(batch: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """The student's rows of a teacher's batch, and its model inputs."""
    return batch["rows"], {name: value for name, value in batch.items() if name not in ("rows", CLIPS)}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout inside the block; every module's mode is put back as it was.

    bitsandbytes' layers stay as they are: without CUDA they repack their weights for good when they run in evaluation,
    and no gradient passes them from then on.
    """
    quantized = "bitsandbytes."
    training = [m for m in model.modules() if m.training and not type(m).__module__.startswith(quantized)]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def build_teacher(config: DistillConfig, trainer: Any) -> Any:
    """The teacher of a run.

    Raises:
        Ego2ExoError: it cannot teach this student.
    """
    if config.kind == "cached":
        return StoredTeacher()
    if config.kind == "self":
        run = RUN.get()
        return SelfTeacher(trainer.model, None if run is None else run.pool)
    return LoadedTeacher(load_teacher(config, trainer.args, llava_model(trainer.model)), trainer.accelerator.autocast)


def load_as_trained(path: str, base: str | None, device: torch.device, bf16: bool, fp16: bool, bits: int) -> Any:
    """A checkpoint by LLaVA's loader, in the bits and type of a training run."""
    from llava.model.builder import load_pretrained_model

    dtype = "bfloat16" if bf16 else "float16" if fp16 else "float32"
    options: dict[str, Any] = {f"load_{bits}bit": True} if bits in (4, 8) else {}
    options |= device_options(load_pretrained_model, device)
    return load_pretrained_model(path, base, "llava_ego2exo", torch_dtype=dtype, **options)[1]


def load_teacher(config: DistillConfig, args: Any, student: Any) -> Any:
    """A checkpoint as the run loads models, on its device.

    LLaVA's loader cuts the vocabulary to the tokenizer's length, which drops the padding rows of some models; here
    they stay, so that teacher and student have the same tokens.
    """
    from transformers import PreTrainedModel

    with substituted(PreTrainedModel, resize_token_embeddings=lambda model, *_a, **_k: model.get_input_embeddings()):
        teacher = load_as_trained(config.teacher, config.teacher_base, args.device, args.bf16, args.fp16, args.bits)
    wanted = student.get_output_embeddings().weight.shape[0]
    if teacher.get_output_embeddings().weight.shape[0] > wanted:  # the student's run has dropped its padding rows
        teacher.resize_token_embeddings(wanted)
    require_equal_vocabularies(wanted, teacher.get_output_embeddings().weight.shape[0])
    # LLaVA rounds the student's tower to half precision, whatever it computes in later.
    half = torch.bfloat16 if args.bf16 else torch.float16
    teacher.get_vision_tower().to(args.device, half).to(student.get_vision_tower().dtype)
    for name in ("tokenizer_model_max_length", "tokenizer_padding_side"):
        setattr(teacher.config, name, getattr(student.config, name, None))
    return teacher
