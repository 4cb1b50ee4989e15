"""KL to a teacher through LLaVA's own train: right teachers, right tokens, right weights, right sums."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.answer_tokens import answer_states
from llava_ego2exo.host.model.projector import ego_branch
from llava_ego2exo.host.training.losses import asks_head_at_answers
from llava_ego2exo.host.training.plots import plot_losses
from llava_ego2exo.method.divergence import Divergence
from llava_ego2exo.registry import TRAINERS

from ..conftest import losses
from .distillation import (
    PLAIN,
    assert_same_gradients,
    distilling_samples,
    history,
    key_of,
    recorded_gradients,
    write_json,
    write_logits,
)

KL = {"ego2exo_kd_weight": 0.7, "ego2exo_kd_temperature": 2.0}
QUANTIZED = {"bits": 4, "bf16": True, "vision_tower_dtype": None}
# Runs of three epochs that tests share; they leave the trainer's weights and config as they find them.
SHARED = {"ce": {}, "self": KL, "path": {**KL, "ego2exo_teacher": "base"}}


@pytest.fixture
def distil(world, train, tmp_path):
    """A run on pairs; the LoRA weights start the same each time."""
    data = write_json(tmp_path / "pairs.json", distilling_samples(world))

    def run(name="s", kind="llama", **flags):
        if flags.get("ego2exo_teacher") == "base":
            flags["ego2exo_teacher"] = world.base(kind)
        torch.manual_seed(0)
        return train(tmp_path / name, kind, **{"data_path": data, **PLAIN, "num_train_epochs": 1, **flags})

    return run


@pytest.fixture(scope="session")
def trained():
    return {}


@pytest.fixture
def shared(distil, trained, world):
    def get(name):
        if name not in trained:
            trained[name] = distil(name, **SHARED[name], num_train_epochs=3)
        world.use_template("llama")
        return trained[name]

    return get


def batch_of(trainer, rows=range(4)):
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    return trainer._prepare_inputs(batch)


def loss_of(trainer, batch):
    return trainer.distiller.loss(trainer.model, trainer.model, batch)


def test_a_run_logs_its_terms(shared):
    trainer = shared("self")
    for total, ce, kl in zip(losses(trainer), history(trainer, "loss_ce"), history(trainer, "loss_kl"), strict=True):
        assert kl > 0.01 and total == pytest.approx(ce + 0.7 * kl, abs=1e-3)
    batch = batch_of(trainer)
    tokens = int((batch["labels"] != -100).sum())
    assert history(trainer, "kl_tokens") == [tokens] * 3 and history(trainer, "answer_tokens") == [tokens / 4] * 3
    model = trainer.model.get_base_model()
    names = ("input_ids", "position_ids", "attention_mask", "past_key_values", "labels", "images")
    known = inspect.signature(inspect.unwrap(type(model).prepare_inputs_labels_for_multimodal)).parameters
    extra = {name: batch[name] for name in ("modalities", "image_sizes") if name in batch and name in known}
    mask = model.prepare_inputs_labels_for_multimodal(*map(batch.get, names), **extra)[2]
    assert mask.sum() < mask.numel()  # the share is one of positions without padding
    assert history(trainer, "supervised_share") == pytest.approx([tokens / int(mask.sum())] * 3, abs=1e-5)
    folder = Path(trainer.args.output_dir)
    assert (folder / "losses.png").stat().st_size > 5000
    stored = json.loads((folder / "config.json").read_text())
    assert stored["ego2exo_kd_weight"] == 0.7 and stored["ego2exo_teacher"] == "self"


def test_another_divergence_takes_the_kls_place(shared, distil):
    forward, found = shared("self"), distil(**KL, ego2exo_divergence="jsd", ego2exo_jsd_beta=0.3)
    (total,), (ce,), (apart,) = (losses(found), history(found, "loss_ce"), history(found, "loss_kl"))
    assert total == pytest.approx(ce + 0.7 * apart, abs=1e-3) and ce == history(forward, "loss_ce")[0]
    batch = batch_of(forward)
    sums = {}
    for kind, beta in (("forward", 0.5), ("jsd", 0.3), ("reverse", 0.5)):
        forward.distiller.divergence, before = Divergence(kind, 2.0, beta), forward.distiller.divergence
        sums[kind] = loss_of(forward, dict(batch))[1].kl
        forward.distiller.divergence = before
    assert 0 < sums["jsd"] < min(sums["forward"], sums["reverse"]) and sums["forward"] != sums["reverse"]
    assert json.loads((Path(found.args.output_dir) / "config.json").read_text())["ego2exo_divergence"] == "jsd"


def test_without_a_weight_the_loss_is_llavas(distil, shared):
    """Equal up to rounding: the same tokens through the same head, but not those without a label."""
    TRAINERS.add("llavas_own", lambda llava_trainer: llava_trainer)
    try:
        theirs = distil("theirs", num_train_epochs=3, trainer_type="llavas_own")
    finally:
        TRAINERS.remove("llavas_own")
    ours = shared("ce")
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4) and not history(ours, "loss_kl")
    ours.model.zero_grad()
    ours.model(**batch_of(ours)).loss.backward()
    expected = [p.grad.clone() for p in ours.model.parameters() if p.requires_grad]
    ours.model.zero_grad()
    loss_of(ours, batch_of(ours))[0].backward()
    assert_same_gradients([p.grad for p in ours.model.parameters() if p.requires_grad], expected, 1e-4)


def test_where_the_head_cannot_be_asked_at_answers_alone(shared, monkeypatch):
    trainer = shared("ce")
    assert asks_head_at_answers(trainer.model, sharded=False) and not asks_head_at_answers(trainer.model, sharded=True)
    for name in ("pretraining_tp", "output_router_logits"):
        with monkeypatch.context() as patch:
            patch.setattr(trainer.model.get_base_model().config, name, 2, raising=False)
            assert not asks_head_at_answers(trainer.model, sharded=False)
    monkeypatch.setattr(trainer, "at_answers", False)
    loss = trainer.compute_loss(trainer.model, batch_of(trainer))
    torch.testing.assert_close(loss, loss_of(trainer, batch_of(trainer))[0])


def test_the_self_teacher_is_a_loaded_base_also_after_training(shared, monkeypatch):
    trainer, loaded = shared("self"), shared("path").distiller.teacher
    monkeypatch.setattr(trainer.model.get_base_model().config, "ego2exo_pool", "1x1")  # the student's alone
    batch, teacher = batch_of(trainer)["teacher"], trainer.distiller.teacher
    expected, found = loaded.targets(batch), teacher.targets(batch)
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.answers.tokens, expected.answers.tokens)
    inputs = {name: value for name, value in batch.items() if name not in ("rows", "clips")}
    monkeypatch.setattr(trainer.distiller, "teacher", loaded)
    with torch.no_grad(), teacher.as_base():  # a student that is the base and sees the ego clip: no KL
        _, same = loss_of(trainer, {**inputs, "teacher": batch})
    with torch.no_grad():
        _, apart = loss_of(trainer, {**inputs, "teacher": batch})
    assert abs(same.kl) < 1e-5 < same.ce and same.kl_tokens == same.tokens > 0 and apart.kl > 0.01


def test_the_teacher_sees_the_ego_clip_and_the_student_the_exo_clip(shared):
    trainer = shared("self")
    first, second = (batch_of(trainer, [row]) for row in (0, 1))
    assert torch.equal(first["teacher"]["images"][0], second["images"][0])  # clip 1 is the ego view of sample 0
    assert not torch.equal(first["images"][0], first["teacher"]["images"][0])
    assert first["teacher"]["rows"] == [0]


def test_training_leaves_the_teacher_as_it_was(shared, world):
    trainer, teacher = shared("self"), shared("path").distiller.teacher.model
    own = {n.replace("base_layer.", ""): value for n, value in trainer.model.get_base_model().state_dict().items()}
    frozen = trainer.distiller.teacher.frozen.state_dict()
    own |= {f"model.mm_projector.{name}": value for name, value in frozen.items()}
    for name, value in load_file(world.base() / "model.safetensors").items():
        assert torch.equal(own[name], value) and torch.equal(teacher.state_dict()[name], value), name
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


def require_reached(trainer):
    """A step gives ego tokens, projector and LoRA a gradient other than 0, and nothing else."""
    trainer.model.zero_grad()
    trainer.model.train()
    loss_of(trainer, batch_of(trainer))[0].backward()
    parameters = dict(trainer.model.named_parameters())
    found = {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().sum() > 0}
    assert found == {name for name, p in parameters.items() if p.requires_grad}
    assert any("ego_tokens.reader.tokens" in name for name in found)
    assert all("lora_" in name or "mm_projector" in name for name in found)


def test_gradients_reach_tokens_projector_and_lora_and_nothing_else(shared):
    require_reached(shared("self"))


def stored_answers(trainer, folder):
    """A teacher's logits for each sample, as `teach --top-k` with k = V would have stored it."""
    samples = []
    for row, sample in enumerate(trainer.train_dataset.list_data_dict):
        targets = trainer.distiller.teacher.targets(batch_of(trainer, [row])["teacher"])
        with torch.no_grad():
            logits, ids = targets.head(targets.hidden).sort(dim=-1, descending=True)
        key = key_of(sample["id"])
        write_logits(folder, key, *(value.numpy() for value in (targets.answers.tokens, ids, logits)))
        samples.append({**sample, "answer_keys": [key]})
    return samples


def test_one_teacher_in_three_ways(shared, distil, tmp_path):
    """The base itself, the base loaded beside the student, and its stored logits of the whole vocabulary."""
    path = shared("path")
    data = write_json(tmp_path / "keys.json", stored_answers(path, tmp_path / "answers"))
    cached = {"ego2exo_teacher": "cached", "ego2exo_answers": tmp_path / "answers", "data_path": data}
    for trainer in (shared("self"), distil("cached", **KL, **cached, num_train_epochs=3)):
        assert losses(trainer) == pytest.approx(losses(path), rel=1e-4)
        for name in ("loss_kl", "kl_tokens"):
            assert history(trainer, name) == pytest.approx(history(path, name), rel=1e-4)


def test_a_whole_model_of_many_settings_and_a_lora_teacher_with_its_base(distil, student):
    flags = {
        "lora_enable": False, "gradient_checkpointing": True, "dataloader_num_workers": 1, "add_time_instruction": True,
        "ego2exo_visual_tokens": False, "ego2exo_teacher": student().folder, "ego2exo_teacher_base": student().base,
    }  # fmt: skip
    trainer = distil(**KL, **flags)
    assert 0 < history(trainer, "loss_kl")[0] < 10 and history(trainer, "kl_tokens")[0] > 20
    assert ego_branch(trainer.distiller.teacher.model.get_model().mm_projector) is not None


def test_a_quantized_student_of_its_own_base(distil, kinds):
    trainer = distil(kind=kinds[-1], **KL, num_train_epochs=3, **QUANTIZED)
    assert losses(trainer)[-1] < losses(trainer)[0] and history(trainer, "loss_kl")[0] > 0
    require_reached(trainer)


def test_replayed_samples_get_cross_entropy_alone(distil, world, tmp_path):
    samples = distilling_samples(world)
    text = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    data = write_json(tmp_path / "mixed.json", [*samples[:2], {"id": "t", "conversations": text, "replay": True}])
    trainer = distil(**KL, data_path=data)
    batch = batch_of(trainer, range(3))
    assert batch["teacher"]["rows"] == [0, 1]
    taught = int((batch["labels"][:2] != -100).sum())
    assert history(trainer, "kl_tokens") == [taught] and history(trainer, "answer_tokens")[0] * 3 > taught
    mixed = loss_of(trainer, batch_of(trainer, [2, 0, 1]))[1]
    each = [loss_of(trainer, batch_of(trainer, [row]))[1] for row in (0, 1)]
    assert mixed.kl == pytest.approx(sum(sums.kl for sums in each), rel=1e-4)  # each token with its own teacher's
    alone = trainer.data_collator([trainer.train_dataset[2]])
    assert "teacher" not in alone
    loss, sums = loss_of(trainer, alone)
    assert sums.kl == sums.kl_tokens == 0 and float(loss.detach()) == pytest.approx(sums.ce / sums.tokens)


def test_a_masked_batch_is_harmless(shared, monkeypatch):
    trainer = shared("self")
    monkeypatch.setattr(trainer, "stats", type(trainer.stats)())
    batch = batch_of(trainer)
    for part in (batch, batch["teacher"]):
        part["labels"] = torch.full_like(part["labels"], -100)
    trainer.model.zero_grad()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert float(loss.detach()) == 0 and trainer.stats.masked == 4 and trainer.stats.tokens == 0
    gradients = [p.grad for p in trainer.model.parameters() if p.requires_grad]
    assert all(g is not None and torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_a_run_of_masked_samples_is_an_error(distil, kinds, tmp_path):
    """Rows so short that LLaVA cuts every answer off, though template tokens of the prompt are left."""
    with pytest.raises(Ego2ExoError) as caught:
        distil(kind=kinds[-1], **KL, model_max_length=30)
    assert "4 of 4 samples seen have no answer token" in caught.value.given
    assert "4 were cut at --model_max_length" in caught.value.given and "--model_max_length" in caught.value.remedy
    assert not (tmp_path / "s" / "config.json").exists()


def test_rows_that_are_cut_use_their_common_head(shared, monkeypatch):
    trainer = shared("self")
    model = trainer.model.get_base_model()
    inputs = {name: value for name, value in batch_of(trainer, [2]).items() if name != "teacher"}
    answers, _ = answer_states(model, trainer.model, inputs)
    whole = loss_of(trainer, batch_of(trainer, [2]))[1]
    # The student's row has ego tokens and loses its end, the teacher's fits.
    monkeypatch.setattr(model.config, "tokenizer_model_max_length", int(answers.places[-1]) - 4)
    part = loss_of(trainer, batch_of(trainer, [2]))[1]
    assert whole.kl_tokens - part.kl_tokens >= 4 and part.cut == 1 and part.kl > 0


def test_stored_answers_whose_first_token_had_a_blank(distil, kinds, world, tmp_path):
    """The first token alone has no KL, as its logits are those of another token's place."""
    from llava_ego2exo.host.checkpoint.config import read_tokenizer

    kind = kinds[-1]
    tokenizer, samples, kept = read_tokenizer(str(world.base(kind))), distilling_samples(world), 0
    for sample in samples:
        answer = sample["conversations"][1]["value"]
        tokens = tokenizer(f"\n {answer}", add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        shape = (len(tokens), 3)
        write_logits(tmp_path / "answers", key_of(answer), tokens, np.zeros(shape, int) + range(3), np.zeros(shape))
        sample["answer_keys"] = [key_of(answer)]
        text = f" {answer}" if kind == "llama" else answer  # the Vicuna template writes a blank before an answer
        kept += len(tokenizer(text, add_special_tokens=False).input_ids) + 1
    data = write_json(tmp_path / "stored.json", samples)
    cached = {"ego2exo_teacher": "cached", "ego2exo_answers": tmp_path / "answers"}
    trainer = distil(kind=kind, data_path=data, **KL, **cached)
    assert kept - 4 <= history(trainer, "kl_tokens")[0] <= kept and history(trainer, "loss_kl")[0] > 0


def test_no_full_logits_exist_in_a_step(shared, monkeypatch):
    """Both vocabularies' logits are made in chunks, forward and backward; transformers makes none of its own."""
    from llava_ego2exo.method import losses as module

    trainer = shared("self")
    vocabulary = trainer.model.config.vocab_size
    monkeypatch.setattr(module.distillation_sums, "__defaults__", (None, module.FORWARD, 3 * vocabulary, False))
    batch = batch_of(trainer)

    class Rows(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            weight = function.overloadpacket in (torch.ops.aten.t, torch.ops.aten.transpose)
            if isinstance(result, torch.Tensor) and result.shape[-1:] == (vocabulary,) and not weight:
                self.most = max(self.most, result.numel() // vocabulary)
            return result

    with Rows() as seen:
        loss, sums = loss_of(trainer, batch)
        loss.backward()
    assert seen.most == 3 < sums.tokens


def test_accumulation_is_one_batch(distil, monkeypatch):
    """Answers of unequal length, and an epoch shorter than the accumulation: the same gradients, loss and terms."""
    one = {**KL, "per_device_train_batch_size": 1}
    with recorded_gradients(monkeypatch) as steps:
        whole = distil("whole", **KL, per_device_train_batch_size=4, max_steps=1)
        parts = distil("parts", **one, gradient_accumulation_steps=4, max_steps=1)
        distil("short", **one, gradient_accumulation_steps=6)
    for found in steps[1:]:
        assert_same_gradients(found, steps[0])
    assert losses(parts) == pytest.approx(losses(whole), abs=2e-4)
    for name in ("loss_ce", "answer_tokens", "supervised_share", "loss_kl", "kl_tokens"):
        assert history(parts, name) == pytest.approx(history(whole, name), rel=1e-4)
    lengths = {int((whole.train_dataset[row]["labels"] != -100).sum()) for row in range(4)}
    assert len(lengths) > 2, "a mean of means would be right too"


def test_without_matplotlib_a_line_says_so(monkeypatch, tmp_path):
    import importlib.util

    entries = [{"loss": 1.0, "step": 1}, {"loss": 0.5, "step": 2}]
    assert plot_losses(entries[:1], str(tmp_path)).startswith("no plots")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "llava-ego2exo[report]" in plot_losses(entries, str(tmp_path))
