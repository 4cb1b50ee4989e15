"""On-policy steps: the student answers from the exo clip, and the teacher scores that answer from the ego clip.

As in GKD (arXiv 2306.13649), where both models read the same input: here the teacher sees the view that the student
lacks. In other steps the student learns from what the teacher wrote; at test time it continues from its own words.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, TrainerCallback

from ...common.draws import draw, shuffle_key
from ...common.files import write_atomic
from ...common.jsonl import AppendFile, json_line, read_lines
from ...run_config import DistillConfig
from ..hooks.install import substituted
from ..inference.answerer import last_logits
from ..inference.settings import stop_ids
from ..model.answer_tokens import IGNORE_INDEX, IMAGE_TOKEN_INDEX, AnswerContent, llava_model
from ..model.shared_encoding import remembered_encoding
from .losses import SAMPLED
from .plots import write_samples
from .teachers import CLIPS, evaluating

FILE = "samples.jsonl"
SHOWN_EVERY = 100  # steps

Row = tuple[Tensor, Tensor]  # ids and labels (length,), without padding


@dataclass(frozen=True)
class SampledAnswers:
    """What the student wrote into a batch in place of the teacher's answers."""

    rows: list[int]  # of the student's batch
    ended: int = 0  # how many it ended itself; the others ended at the maximum length
    tokens: int = 0  # all that it wrote
    # Of each row the files of both views, and the tokens of prompt, answer and the teacher's answer.
    texts: list[tuple[dict[str, str], Tensor, Tensor, Tensor]] = dataclasses.field(default_factory=list)


def answer_spans(labels: Tensor, content: AnswerContent) -> list[tuple[int, int]]:
    """Of a row's labels (length,) the first position and the one behind the last of each answer's own text."""
    own, supervised = content.own(labels[None])[0], labels != IGNORE_INDEX
    begins = supervised & ~torch.cat([supervised.new_zeros(1), supervised[:-1]])
    number = begins.cumsum(0)  # of the stretch of supervised positions; a template's tokens may be around the answer
    stretches = [(own & (number == one)).nonzero()[:, 0].tolist() for one in number[own].unique().tolist()]
    return [(places[0], places[-1] + 1) for places in stretches]


class StudentSampler:
    """Writes the student's own answers into batches.

    Args:
        config: how the run distils.
        tokenizer: the student's.
        content: tells answers from the template.
        stops: tokens that end an answer.
        seed: of the run.
    """

    def __init__(
        self, config: DistillConfig, tokenizer: Any, content: AnswerContent, stops: list[int], seed: int
    ) -> None:
        self.config, self.tokenizer, self.content, self.seed = config, tokenizer, content, seed
        self.stops = torch.tensor(stops)
        pad = tokenizer.pad_token_id
        self.generation = GenerationConfig(  # a model's own may hold penalties and bounds that its training lacks
            do_sample=True, temperature=config.sample_temperature, top_k=0, top_p=1.0, num_beams=1, use_cache=True,
            max_new_tokens=config.sample_tokens, eos_token_id=stops, pad_token_id=stops[0] if pad is None else pad,
        )  # fmt: skip

    def on_policy(self, step: int) -> bool:
        """Whether an optimizer step, counted from 0, is on-policy: by the seed alone, so on every process."""
        return int(shuffle_key(self.seed, "on-policy", step), 16) < self.config.on_policy * 2**256

    def shown(self, step: int) -> bool:
        """Whether its samples are kept for reading: the first on-policy step in each `SHOWN_EVERY`."""
        return self.on_policy(step) and not any(map(self.on_policy, range(step - step % SHOWN_EVERY, step)))

    def write(self, model: Any, batch: dict[str, Any], *place: int) -> SampledAnswers:
        """Put the student's answers in place of the teacher's, in both parts of a batch.

        Of a conversation one turn is drawn: those before it stay as the teacher wrote them, those behind it go. A row
        without an answer is masked; one without a teacher stays as it is.

        Args:
            model: the student, as PEFT wraps it; inside the run's autocast.
            batch: of the collator, with its part `teacher` where a row has one; changed in place.
            place: in the run, numbers that with its seed determine the draws.
        """
        teacher = batch.get("teacher")
        if teacher is None:
            return SampledAnswers([])
        mine, theirs = _rows(batch), _rows(teacher)
        prompts, spans = [ids for ids, _ in mine], {}
        for index, row in enumerate(teacher["rows"]):
            both = (answer_spans(labels, self.content) for _, labels in (mine[row], theirs[index]))
            pairs = list(zip(*both, strict=False))  # a row that was cut has lost its last ones
            if not pairs:
                mine[row], theirs[index] = _masked(*mine[row]), _masked(*theirs[index])
                continue
            spans[index] = draw(pairs, self.seed, *place, row)
            prompts[row] = prompts[row][: spans[index][0][0]]
        written = self._generate(model, batch, prompts, int(shuffle_key(self.seed, "sample", *place), 16) % 2**63)
        ended, texts = 0, []
        for index, ((start, end), (their_start, _)) in spans.items():
            row = teacher["rows"][index]
            answer = written[row]
            ended += int(answer[-1]) in self.stops
            texts.append((teacher[CLIPS][index], prompts[row], answer, mine[row][0][start:end]))
            mine[row] = _answered(prompts[row], answer)
            theirs[index] = _answered(theirs[index][0][:their_start], answer)
        batch.update(_padded(mine))
        teacher.update(_padded(theirs))
        rows, tokens = [teacher["rows"][index] for index in spans], sum(len(answer) for _, _, answer, _ in texts)
        return SampledAnswers(rows, ended, tokens, texts)

    @torch.no_grad()
    def _generate(self, model: Any, batch: dict[str, Any], prompts: list[Tensor], seed: int) -> list[Tensor]:
        """Each prompt's answer with its end token; all prompts are asked, so that the clips are those of the batch."""
        inner, device = llava_model(model), prompts[0].device
        ids = pad_sequence(prompts, batch_first=True)
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in prompts], batch_first=True)
        visual = {name: batch[name] for name in ("images", "image_sizes", "modalities") if name in batch}
        with contextlib.ExitStack() as stack:
            stack.enter_context(evaluating(model))
            # On the left: new tokens go behind the last column of all rows.
            whole = {"tokenizer_padding_side": "left", "tokenizer_model_max_length": None}
            stack.enter_context(substituted(inner.config, **whole))
            stack.enter_context(last_logits(inner, 0, []))
            # The run's own random numbers stay where they are: a step's samples depend on its place alone.
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            torch.manual_seed(seed)
            out = inner.generate(ids, attention_mask=mask, generation_config=self.generation, **visual)
        found = []
        for row in out:
            ends = torch.isin(row, self.stops.to(row.device)).nonzero()[:1, 0].tolist()
            found.append(row[: ends[0] + 1 if ends else len(row)])
        return found

    def records(self, sampled: SampledAnswers) -> Iterator[dict[str, Any]]:
        """What was sampled, for a person to read."""
        for clips, prompt, answer, taught in sampled.texts:
            asked = self.tokenizer.decode([token for token in prompt.tolist() if token != IMAGE_TOKEN_INDEX])
            both = (self.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in (answer, taught))
            texts = dict(zip(("student", "teacher"), both, strict=True))
            yield {**clips, "prompt": asked, **texts, "tokens": len(answer)}


def _rows(batch: dict[str, Any]) -> list[Row]:
    parts = (batch["input_ids"], batch["labels"], batch["attention_mask"].bool())
    return [(ids[mask], labels[mask]) for ids, labels, mask in zip(*parts, strict=True)]


def _masked(ids: Tensor, labels: Tensor) -> Row:
    return ids, torch.full_like(labels, IGNORE_INDEX)


def _answered(prompt: Tensor, answer: Tensor) -> Row:
    return torch.cat([prompt, answer]), torch.cat([torch.full_like(prompt, IGNORE_INDEX), answer])


def _padded(rows: Sequence[Row]) -> dict[str, Tensor]:
    parts = {"input_ids": ([ids for ids, _ in rows], 0), "labels": ([labels for _, labels in rows], IGNORE_INDEX)}
    parts["attention_mask"] = ([torch.ones_like(ids, dtype=torch.bool) for ids, _ in rows], False)
    return {name: pad_sequence(values, batch_first=True, padding_value=fill) for name, (values, fill) in parts.items()}


class OnPolicyMixin:
    """Before :class:`~..trainer.DistillingMixin`: on-policy steps; without `--ego2exo_on_policy` nothing differs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from llava import conversation

        super().__init__(*args, **kwargs)
        config, self.sampler = self.distiller.config, None
        self.sample_file = Path(self.args.output_dir, FILE)
        if not config.on_policy:
            return
        tokenizer, templates = self.content.tokenizer, conversation.conv_templates
        template = next(name for name, one in templates.items() if one is conversation.default_conversation)
        stops = stop_ids(llava_model(self.model), tokenizer, template)
        self.sampler = StudentSampler(config, tokenizer, self.content, stops, self.args.seed)
        self.add_callback(_SampleFile(self))

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """One small batch, in an on-policy step with the student's own answers."""
        step, sampler = self.state.global_step, self.sampler
        if sampler is None or return_outputs or not model.training or not sampler.on_policy(step):
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        # transformers counts small batches from 1, and the process has samples of its own.
        place = step, (self.steps.total - 1) % self.steps.accumulation, self.args.process_index
        with self._encoded_once():
            with self.accelerator.autocast():
                inputs[SAMPLED] = sampler.write(self.model, inputs, *place)
            if sampler.shown(step) and self.is_world_process_zero():
                with AppendFile(self.sample_file) as file:
                    file.append({"step": step + 1, **one} for one in sampler.records(inputs[SAMPLED]))
            return super().compute_loss(model, inputs, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The host's; then the page of samples."""
        result = super().train(*args, **kwargs)
        samples = list(read_samples(self.sample_file)) if self.sampler and self.is_world_process_zero() else []
        if samples:
            self.report([write_samples(samples, self.sample_file)])
        return result

    def _encoded_once(self) -> contextlib.AbstractContextManager[None]:
        """The exo clip goes through the encoder once, for sampling and for the student's scoring.

        Not where its states are not to be kept, and not where the encoder itself trains: sampling makes no gradients.
        """
        inner = llava_model(self.model)
        trained = any(parameter.requires_grad for parameter in inner.get_vision_tower().parameters())
        if trained or getattr(inner.config, "ego2exo_states", "keep") != "keep":
            return contextlib.nullcontext()
        return remembered_encoding(inner, first=True)


class _SampleFile(TrainerCallback):
    """A resumed run writes again what it samples again."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, _args: Any, state: Any, *_: Any, **_kwargs: Any) -> None:
        """Keep the samples of steps that are done."""
        file = self.trainer.sample_file
        if self.trainer.is_world_process_zero() and file.is_file():
            kept = [one for one in read_samples(file) if one["step"] <= state.global_step]
            write_atomic(file, "".join(map(json_line, kept)))


def read_samples(file: Path) -> Iterator[dict[str, Any]]:
    """The samples of a run, as `samples.jsonl` holds them; none where there is no such file."""
    if file.is_file():
        yield from read_lines(file, dict, torn=True, origin="a training run")
