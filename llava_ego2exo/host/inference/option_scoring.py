"""How likely a LLaVA model finds each option of a question about a video: no generation, nothing to parse.

`option_scores` scores whole options. `letter_scores` scores each option's key ("A", "3") as what the answer begins
with. Both are one forward pass, with the language model's head at the answers' places alone, and one row for all
options that differ in their last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ..hooks.install import substituted
from ..model.answer_tokens import IGNORE_INDEX, Answers, answer_pass
from ..model.shared_encoding import shared_encoding
from .answerer import Answerer
from .settings import prompt


def option_scores(
    model: Any, tokenizer: Any, videos: Sequence[Tensor], questions: Sequence[str], options: Sequence[Sequence[str]],
    template: str,
) -> list[list[float]]:  # fmt: skip
    """Log-likelihood of each option as the answer to its question: the sum over its tokens.

    Args:
        model: a LLaVA model.
        tokenizer: its tokenizer.
        videos: one for each question, (T, 3, H, W), preprocessed; the same tensor may stand several times.
        questions: without placeholder.
        options: of each question, two or more.
        template: name of LLaVA's conversation template.
    """
    marks = bool(getattr(model.config, "mm_use_im_start_end", False))
    asked = [(text, tuple(own)) for text, own in zip(questions, options, strict=True)]
    made = {(text, own): _rows(tokenizer, prompt(text, template, marks), own) for text, own in dict.fromkeys(asked)}
    found = _scores(model, [made[one] for one in asked], videos)
    return [[scores[option] for option in own] for scores, own in zip(found, options, strict=True)]


def answer_row(tokenizer: Any, text: str, answer: str) -> tuple[Tensor, int]:
    """Ids of a prompt with an answer behind it, and how many of them are the prompt's."""
    from llava.mm_utils import tokenizer_image_token

    # The template's own blank between prompt and answer, as in training: none behind a line's end.
    joined = text + answer if text.endswith("\n") else f"{text} {answer}"
    start = len(tokenizer_image_token(text, tokenizer))
    return tokenizer_image_token(joined, tokenizer, return_tensors="pt"), start


@torch.inference_mode()
def answer_log_probs(model: Any, rows: Sequence[tuple[Tensor, int]], videos: Sequence[Tensor]) -> list[Tensor]:
    """For each row (answer tokens, vocabulary): log-probabilities of what may stand at each place of its answer.

    The language model's head is asked at these places alone, and each different video is encoded once: `rows` are as
    :func:`answer_row` gives them, and rows about one video share its tensor object, (T, 3, H, W).
    """
    device, dtype = model.device, model.dtype
    kept = {id(video): video.to(device, dtype) for video in videos}
    images = [kept[id(video)] for video in videos]
    ids = [row for row, _ in rows]
    labels = [row.masked_fill(torch.arange(len(row)) < start, IGNORE_INDEX) for row, start in rows]
    pad, head = torch.nn.utils.rnn.pad_sequence, model.get_output_embeddings().forward
    mask = pad([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)

    def likely(_answers: Answers, hidden: Tensor) -> Tensor:
        return head(hidden).float().log_softmax(-1)

    inputs = {
        "input_ids": pad(ids, batch_first=True).to(device), "attention_mask": mask.to(device),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX).to(device),
        "images": images, "modalities": ["video"] * len(images), "use_cache": False,
    }  # fmt: skip
    with shared_encoding(model, images):
        found, _ = answer_pass(model, model, inputs, likely)
    return list(found.cpu().split([len(row) - start for row, start in rows]))


def score(places: Tensor, ids: Tensor) -> float:
    """Sum of the log-probabilities of tokens, (at most T,), one a place from the first on: (T, vocabulary)."""
    return float(places[: len(ids)].gather(1, ids[:, None].to(torch.int64)).sum())


@dataclass(frozen=True)
class MultipleChoiceQuestion:
    """A question as it is asked, without placeholder, and the keys of its options."""

    text: str
    keys: tuple[str, ...]
    whole: bool = False  # whether the text is a prompt already, up to where the answer begins


def letter_scores(
    answerer: Answerer, clips: Sequence[Tensor], questions: Sequence[Sequence[MultipleChoiceQuestion]]
) -> list[list[dict[str, float]] | Ego2ExoError]:
    """Score of each option of each question, all clips in one batch; each goes through the vision tower once.

    Args:
        answerer: a loaded model with its template.
        clips: (T, 3, H, W) each, preprocessed.
        questions: those of each clip.

    Returns:
        For each clip one dict a question, option's key -> log-probability; an error for a clip that is too long.
    """

    def ask(fitting: Sequence[Tensor], asked: Sequence[Sequence[MultipleChoiceQuestion]]) -> list[dict[str, float]]:
        owners = [clip for clip, own in enumerate(asked) for _ in own]
        flat = [(one.text if one.whole else answerer.prompt(one.text), one.keys) for own in asked for one in own]
        rows = [_rows(answerer.tokenizer, text, keys) for text, keys in flat]
        # On the right, whatever the checkpoint was trained with; and nothing is cut off unnoticed.
        whole = {"tokenizer_padding_side": "right", "tokenizer_model_max_length": None}
        lengths = [owner for owner, own in zip(owners, rows, strict=True) for _ in own]
        with answerer.checked_lengths(lengths), substituted(answerer.model.config, **whole):
            found = _scores(answerer.model, rows, [fitting[owner] for owner in owners])
        keys = (one.keys for own in asked for one in own)
        return [{key: scores[key] for key in own} for scores, own in zip(found, keys, strict=True)]

    return answerer.each(clips, questions, ask)


_Row = tuple[Tensor, int, dict[str, Tensor]]  # ids, how many are the prompt's, option -> its tokens


def _rows(tokenizer: Any, text: str, options: Sequence[str]) -> list[_Row]:
    """One row for all options alike but for their last token, as letters are, behind the prompt `text`.

    At the place of that token the row's log-probabilities hold for each of them.
    """
    whole = {option: answer_row(tokenizer, text, option) for option in options}
    tails = {option: ids[start:] for option, (ids, start) in whole.items()}
    if len({tuple(tail.tolist()) for tail in tails.values()}) < len(tails) or any(not len(t) for t in tails.values()):
        raise Ego2ExoError(
            f"the tokenizer cannot tell the options {', '.join(options)} apart",
            "keys that it writes differently",
            "use --mode generate for this model",
        )
    rows: dict[tuple[int, ...], _Row] = {}
    for option, tail in tails.items():
        rows.setdefault(tuple(tail[:-1].tolist()), (*whole[option], {}))[2][option] = tail
    return list(rows.values())


def _scores(model: Any, asked: Sequence[Sequence[_Row]], videos: Sequence[Tensor]) -> list[dict[str, float]]:
    """Option -> log-likelihood for the rows of each question about its video."""
    flat = [(ids, start) for rows in asked for ids, start, _ in rows]
    media = [video for rows, video in zip(asked, videos, strict=True) for _ in rows]
    places = iter(answer_log_probs(model, flat, media))
    found = []
    for rows in asked:
        scores: dict[str, float] = {}
        for *_, tails in rows:
            own = next(places)
            scores |= {option: score(own, tail) for option, tail in tails.items()}
        found.append(scores)
    return found
