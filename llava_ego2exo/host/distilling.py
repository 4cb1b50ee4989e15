"""The loss of one small batch: cross-entropy, with a teacher also the KL to it, or LLaVA's own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..config import DistillConfig
from ..errors import Ego2ExoError
from ..method.losses import distillation_sums
from .answer_content import AnswerContent
from .answer_pass import Answers, Seen, answer_pass, llava_model, watched
from .tally import REFERENCE, Sums


def plain_loss(
    model: Any, compute: Callable[[], tuple[Tensor, Any]], content: AnswerContent | None = None
) -> tuple[Tensor, Sums]:
    """LLaVA's own loss, and its sums.

    Args:
        model: the LLaVA model, with or without PEFT's wrapper.
        compute: runs the (wrapped) model and returns its loss and outputs.
        content: tells answers from the template around them; None: all that is supervised is an answer's.

    Returns:
        The loss as LLaVA computes it; zero with a gradient path where no token is supervised, which LLaVA makes nan.
    """
    with watched(llava_model(model)) as seen:
        loss, outputs = compute()
    sums = _counted(seen, content)
    if not sums.tokens:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[1]
        return logits[..., :0].float().sum(), sums
    sums.ce = float(loss.detach()) * sums.tokens
    return loss, sums


def _counted(seen: Seen, content: AnswerContent | None) -> Sums:
    if seen.labels is None:
        raise Ego2ExoError("a training batch without labels", "batches of LLaVA's own collator")
    supervised = seen.supervised
    own = supervised if content is None else content.own(seen.labels[:, 1:])
    each = supervised.sum(dim=1).tolist()
    return Sums(
        tokens=sum(each),
        samples=len(each),
        positions=sum(seen.lengths),
        masked=int((~own.any(dim=1)).sum()),
        cut=sum(seen.cut),
    )


class Distiller:
    """Cross-entropy and KL of a student, in one pass of the teacher and one of the student.

    The language model's head is asked at answer positions only. LLaVA asks it everywhere: with thousands of visual
    tokens its float32 logits are the largest tensors of a step, by far, and hardly any of them has a label.

    Args:
        config: weight and temperature.
        teacher: see :mod:`.kl_teachers`; None: cross-entropy alone.
        content: tells answers from the template around them; None: all that is supervised is an answer's.
    """

    def __init__(self, config: DistillConfig, teacher: Any | None = None, content: AnswerContent | None = None) -> None:
        self.config, self.teacher, self.content = config, teacher, content

    def loss(self, model: Any, call: Callable[..., Any], inputs: dict[str, Any]) -> tuple[Tensor, Sums]:
        """The mean over answer tokens, and its sums.

        Args:
            model: the student, without the wrapper of distributed training.
            call: the student's forward, with it.
            inputs: a batch; `teacher` in it is the teacher's part, absent where no row has one.
        """
        batch = inputs.pop("teacher", None)
        lesson = None if batch is None or self.teacher is None else self.teacher.lesson(batch)
        inner = llava_model(model)
        head = inner.get_output_embeddings().forward
        counts: list[tuple[int, int]] = []

        def at_head(answers: Answers, hidden: Tensor) -> Tensor:
            known, taught, left_out = (answers.tokens.new_empty(0), None, 0)
            if lesson is not None:
                known, taught, left_out = lesson.about(answers)
            counts.append((len(known), left_out))
            order = _first(known, len(answers.tokens)).to(hidden.device)
            labels = answers.tokens.to(hidden.device)[order]
            return distillation_sums(head, hidden[order], labels, taught, self.config.kd_temperature)

        found, seen = answer_pass(inner, call, inputs, at_head)
        sums = _counted(seen, self.content)
        sums.kl_tokens, sums.left_out = counts[-1]
        sums.ce, sums.kl = found.detach().tolist()
        return (found[0] + self.config.kd_weight * found[1]) / max(sums.tokens, 1), sums


def asks_head_at_answers(model: Any, sharded: bool) -> bool:
    """Whether a run without KL takes its cross-entropy by :class:`Distiller` too; else by :func:`plain_loss`.

    Not where the head's weights are sharded, where the model computes its logits without calling its head, or where
    its own loss holds more than the cross-entropy (the balance of a mixture's experts).

    Args:
        model: the student, with or without PEFT's wrapper.
        sharded: ZeRO-3 or FSDP.
    """
    config = llava_model(model).config
    whole = getattr(config, "pretraining_tp", 1) in (None, 1)
    return whole and not sharded and not getattr(config, "output_router_logits", False)


def _first(chosen: Tensor, total: int) -> Tensor:
    """The numbers below `total`, the chosen ones in front."""
    rest = torch.ones(total, dtype=torch.bool, device=chosen.device)
    rest[chosen] = False
    return torch.cat([chosen, rest.nonzero()[:, 0]])


def referred(loss: Tensor, sums: Sums) -> Tensor:
    """A batch's mean as its part of a sum over the global batch, in units of `REFERENCE` tokens."""
    return loss * (sums.tokens / REFERENCE)
