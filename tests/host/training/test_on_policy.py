"""On-policy steps through LLaVA's own train: what is sampled, who scores it on which clip, and what is learned."""

import dataclasses
import shutil

import pytest
import torch
import torch.nn.functional as F

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.answer_tokens import IGNORE_INDEX, answer_pass, capture_labels
from llava_ego2exo.host.training import on_policy
from llava_ego2exo.host.training.losses import Distiller
from llava_ego2exo.host.training.on_policy import SAMPLED, answer_spans, read_samples

from ..resume.test_resume import logged
from .distillation import ANSWERS, PLAIN, distilling_samples, history, write_json

ON = {
    "ego2exo_kd_weight": 0.7, "ego2exo_kd_temperature": 2.0, "ego2exo_on_policy": 1.0, "ego2exo_sample_tokens": 9,
    "ego2exo_divergence": "reverse",
}  # fmt: skip


@pytest.fixture
def sampled(world, train, tmp_path):
    """A run on pairs and a replayed text; the LoRA weights start the same each time.

    With Qwen one sample has two turns: the other template needs for this what tiny tokenizers lack.
    """

    def run(name="s", kind="llama", **flags):
        samples = distilling_samples(world)
        more = [{"from": "human", "value": "And then?"}, {"from": "gpt", "value": "Nothing."}]
        samples[1]["conversations"] += more if kind == "qwen" else []
        samples.append({"id": "t", "conversations": more, "replay": True})
        data = write_json(tmp_path / "pairs.json", samples)
        torch.manual_seed(0)
        return train(tmp_path / name, kind, **{"data_path": data, **PLAIN, **ON, "num_train_epochs": 1, **flags})

    return run


def batch_of(trainer, rows=range(5)):
    return trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[row] for row in rows]))


def row_of(batch, row):
    keep = batch["attention_mask"][row].bool()
    return batch["input_ids"][row][keep], batch["labels"][row][keep]


def written(trainer, batch, *place):
    with trainer.accelerator.autocast():
        return trainer.sampler.write(trainer.model, batch, *place)


@pytest.mark.parametrize("index", [0, -1])
def test_the_student_writes_what_it_would_say(index, sampled, kinds):
    """From its own distribution on the exo clip: the prompts are the samples', and the draws those of one pass."""
    quantized = {"bits": 4, "bf16": True, "vision_tower_dtype": None} if index else {}
    trainer = sampled(kind=kinds[index], **quantized)
    given, batch = batch_of(trainer), batch_of(trainer)
    found = written(trainer, batch, 3, 0, 0)
    assert found.rows == [0, 1, 2, 3] and 0 <= found.ended <= 4
    stops, records = set(trainer.sampler.stops.tolist()), list(trainer.sampler.records(found))
    for row in range(4):
        (before, labels), (ids, ours), (theirs, scored) = (
            row_of(given, row), row_of(batch, row), row_of(batch["teacher"], row)
        )  # fmt: skip
        spans = answer_spans(labels, trainer.content)
        assert len(spans) == (2 if row == 1 and kinds[index] == "qwen" else 1)
        texts = [trainer.content.tokenizer.decode(before[slice(*span)]).strip() for span in spans]
        assert records[row]["teacher"] in texts and texts[0] == ANSWERS[row]
        answer = ours[ours != IGNORE_INDEX]
        assert 1 <= len(answer) <= 9 and torch.equal(ids[-len(answer) :], answer)
        start = len(ids) - len(answer)
        assert start in [span[0] for span in spans] and torch.equal(ids[:start], before[:start])
        assert torch.equal(scored[scored != IGNORE_INDEX], answer) and torch.equal(theirs[-len(answer) :], answer)
        ends = [token for token in answer.tolist() if token in stops]
        assert len(answer) == 9 or ends == [int(answer[-1])]
    assert all(torch.equal(a, b) for a, b in zip(row_of(given, 4), row_of(batch, 4), strict=True))  # replayed text
    again, other = batch_of(trainer), batch_of(trainer)
    state = torch.get_rng_state()
    written(trainer, again, 3, 0, 0)
    written(trainer, other, 4, 0, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again["input_ids"], batch["input_ids"])
    assert not torch.equal(other["input_ids"], batch["input_ids"])


def test_a_cold_sample_is_the_greedy_answer(sampled):
    """With the cache, padding on the left and one pass of the clip: what a plain pass without them finds likeliest."""
    trainer = sampled(ego2exo_sample_temperature=1e-4)
    batch = batch_of(trainer)
    written(trainer, batch, 0, 0, 0)
    trainer.model.eval()
    with torch.no_grad(), capture_labels(trainer.model.get_base_model()) as seen:
        logits = trainer.model(**{name: value for name, value in batch.items() if name != "teacher"}).logits
    rows, places = seen.supervised[:4].nonzero(as_tuple=True)
    labels = seen.labels[rows, places + 1]
    assert len(labels) > 10 and torch.equal(logits[rows, places].argmax(-1), labels)


def test_a_step_is_the_plain_formula(sampled, monkeypatch):
    """Its loss and gradients: T^2 KL(student || teacher) over the samples, cross-entropy on the replayed text alone."""
    trainer = sampled()
    batch = batch_of(trainer)
    batch[SAMPLED] = written(trainer, batch, 0, 0, 0)
    teacher = trainer.distiller.teacher.targets(batch["teacher"])
    copy = dict(batch)
    loss, stats = trainer.distiller.loss(trainer.model, trainer.model, copy)
    inputs = {name: value for name, value in batch.items() if name not in ("teacher", SAMPLED)}
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters)
    logits, answers = _answer_logits(trainer, inputs)
    own = answers.rows < 4
    with torch.no_grad():
        taught = (teacher.head(teacher.hidden).float() / 2).log_softmax(-1)
    mine = (logits[own] / 2).log_softmax(-1)
    kl = 4 * (mine.exp() * (mine - taught)).sum()
    ce = F.cross_entropy(logits[~own], answers.tokens[~own], reduction="sum")
    expected = (ce + 0.7 * kl) / len(logits)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    for name, value in {"ce": ce, "kl": kl, "sampled_kl": kl}.items():
        assert getattr(stats, name) == pytest.approx(float(value.detach()), rel=1e-4), name
    assert stats.sampled == 4 and stats.sampled_tokens == own.sum() == stats.kl_tokens
    assert stats.ce_tokens == (~own).sum() > 0
    shares = logits[own].detach().softmax(-1)
    assert stats.sampled_entropy == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-4)
    for ours, theirs in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def _answer_logits(trainer, inputs):
    kept = []

    def keep(answers, hidden):
        kept.append((answers, trainer.model.get_base_model().lm_head.weight @ hidden.mT))
        return hidden.sum()

    answer_pass(trainer.model.get_base_model(), trainer.model, inputs, keep)
    return kept[0][1].mT.float(), kept[0][0]


def test_a_clip_is_encoded_once(sampled, monkeypatch):
    """Two runs of the encoder in a step: the exo clips for sampling, scoring and the filter, and the ego clips."""
    trainer, runs = sampled(ego2exo_privilege_filter=1e6), []
    encoder = trainer.model.get_base_model().get_vision_tower().vision_tower
    original = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda *args, **kwargs: runs.append(1) or original(*args, **kwargs))
    for states, expected in (("keep", 2), ("recompute", 4)):
        monkeypatch.setattr(trainer.model.get_base_model().config, "ego2exo_states", states)
        trainer.model.train()
        runs.clear()
        trainer.compute_loss(trainer.model, batch_of(trainer))
        assert len(runs) == expected


def test_what_the_exo_clip_cannot_show_is_left_out(sampled, monkeypatch):
    """By the teacher's own two distributions; a cap bounds what a token adds."""
    trainer = sampled()
    batch = batch_of(trainer)
    batch[SAMPLED] = written(trainer, batch, 0, 0, 0)

    def stats_of(**flags):
        config = dataclasses.replace(trainer.distiller.config, **flags)
        distiller = Distiller(config, trainer.distiller.teacher, trainer.content)
        copied = {**batch, "teacher": dict(batch["teacher"])}
        return distiller.loss(trainer.model, trainer.model, copied)[1]

    teacher = trainer.distiller.teacher
    inputs = {name: value for name, value in batch.items() if name not in ("teacher", SAMPLED)}
    exo, ego = teacher.targets({**inputs, "rows": list(range(5))}), teacher.targets(batch["teacher"])
    with torch.no_grad():
        ours, theirs = (
            (one.head(one.hidden).float() / 2).log_softmax(-1)
            for one in (dataclasses.replace(exo, hidden=exo.hidden[exo.answers.rows < 4]), ego)
        )
    apart = 4 * (ours.exp() * (ours - theirs)).sum(-1)
    bound = float(apart.median())
    whole, part, none = stats_of(), stats_of(privilege_filter=bound), stats_of(privilege_filter=1e-9)
    assert part.left_out == (apart > bound).sum() > 0 and 0 < part.kl < whole.kl
    assert none.left_out == none.kl_tokens == whole.kl_tokens and none.kl == 0
    capped = stats_of(privilege_cap=1e-3)
    assert capped.capped > 0 and capped.kl <= 1e-3 * capped.kl_tokens + 1e-6 < whole.kl
    assert stats_of(privilege_cap=1e6).kl == pytest.approx(whole.kl, rel=1e-5)


def test_a_run_is_logged_shown_and_resumed_as_the_same_run(sampled, tmp_path, monkeypatch):
    """Half of the steps, in small batches; the samples of all of them are kept here."""
    monkeypatch.setattr(on_policy, "SHOWN_EVERY", 1)
    flags = {
        "ego2exo_on_policy": 0.5, "num_train_epochs": 3, "per_device_train_batch_size": 1, "lora_dropout": 0.05,
        "gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 3, "ego2exo_privilege_cap": 5.0,
        "ego2exo_privilege_filter": 50.0,
    }  # fmt: skip
    whole = sampled("whole", **flags)
    drawn = [float(whole.sampler.on_policy(step)) for step in range(whole.state.global_step)]
    assert history(whole, "on_policy") == drawn and 0 < sum(drawn[3:]) < len(drawn[3:])
    for name in ("sample_kl", "sample_entropy", "sample_tokens", "sample_ended"):
        assert len(history(whole, name)) == sum(drawn)
    assert all(1 <= value <= 9 for value in history(whole, "sample_tokens"))
    assert len(history(whole, "kl_capped")) == len(history(whole, "kl_left_out")) == len(drawn)
    folder = tmp_path / "whole"
    samples = list(read_samples(folder / on_policy.FILE))
    assert {one["step"] for one in samples} == {step + 1 for step, on in enumerate(drawn) if on}
    assert all(one["exo"] != one["ego"] and "What moves" in one["prompt"] for one in samples)
    page = (folder / "samples.html").read_text()
    assert f"{len(samples)} of {len(samples)} samples" in page and "data:image/png;base64" in page
    cut = tmp_path / "cut"
    shutil.copytree(folder / "checkpoint-3", cut / "checkpoint-3")
    shutil.copy(folder / on_policy.FILE, cut)
    with (cut / on_policy.FILE).open("a") as file:
        file.write('{"step": 9')  # a killed run's
    resumed = sampled("cut", **flags)
    assert logged(resumed) == logged(whole)
    assert (cut / on_policy.FILE).read_bytes() == (folder / on_policy.FILE).read_bytes()
    kept = dict(whole.model.named_parameters())
    assert all(torch.equal(value, kept[name]) for name, value in resumed.model.named_parameters())
    again = sampled("cut", **flags)  # all steps are done
    assert again.state.global_step == whole.state.global_step and logged(again)[:-1] == logged(whole)[:-1]
    with pytest.raises(Ego2ExoError) as error:
        sampled("cut", **{**flags, "ego2exo_on_policy": 0.25})
    assert "ego2exo_on_policy: 0.5 / 0.25" in error.value.given


@pytest.mark.gpu
def test_on_cuda(sampled, kinds):
    """QLoRA on the first GPU: the CPU's random numbers and the card's stay where they are, and the run ends."""
    trainer = sampled(kind=kinds[-1], bits=4, bf16=True, vision_tower_dtype=None, use_cpu=None, num_train_epochs=3)
    assert trainer.model.device.type == "cuda" and len(history(trainer, "sample_kl")) == trainer.state.global_step
    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    written(trainer, batch_of(trainer), 0, 0, 0)
    assert torch.equal(states[0], torch.get_rng_state()) and torch.equal(states[1], torch.cuda.get_rng_state())
