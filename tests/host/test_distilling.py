"""KL to a teacher through LLaVA's own train: right teachers, right tokens, right weights, right sums."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.distilling import asks_head_at_answers
from llava_ego2exo.host.kl_teachers import LoadedTeacher, load_teacher
from llava_ego2exo.registry import TRAINERS

from .conftest import losses
from .distilling import (
    PLAIN,
    assert_same_gradients,
    distilling_samples,
    key_of,
    recorded_gradients,
    write_json,
    write_logits,
)

KL = {"ego2exo_kd_weight": 0.7, "ego2exo_kd_temperature": 2.0}


@pytest.fixture
def distil(world, train, tmp_path):
    """A run on pairs; the LoRA weights start the same each time."""
    data = write_json(tmp_path / "pairs.json", distilling_samples(world))

    def run(name="s", kind="llama", **flags):
        torch.manual_seed(0)
        return train(tmp_path / name, kind, **{"data_path": data, **PLAIN, "num_train_epochs": 1, **flags})

    return run


def batch_of(trainer, rows=range(4)):
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    return trainer._prepare_inputs(batch)


def history(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_run_logs_its_terms_and_draws_them(distil, tmp_path):
    trainer = distil(**KL, num_train_epochs=3)
    for total, ce, kl in zip(losses(trainer), history(trainer, "loss_ce"), history(trainer, "loss_kl"), strict=True):
        assert kl > 0.01 and total == pytest.approx(ce + 0.7 * kl, abs=1e-3)
    labels = batch_of(trainer)["labels"]
    tokens = int((labels != -100).sum())
    assert history(trainer, "kl_tokens") == [tokens] * 3
    assert history(trainer, "answer_tokens") == [tokens / 4] * 3
    assert all(0.01 < share < 0.5 for share in history(trainer, "supervised_share"))
    assert (tmp_path / "s" / "losses.png").stat().st_size > 5000
    stored = json.loads((tmp_path / "s" / "config.json").read_text())
    assert stored["ego2exo_kd_weight"] == 0.7 and stored["ego2exo_teacher"] == "self"


def test_the_share_is_of_positions_without_padding(distil):
    trainer = distil(**KL)
    batch = batch_of(trainer)
    model = trainer.model.get_base_model()
    names = ("input_ids", "position_ids", "attention_mask", "past_key_values", "labels", "images")
    known = inspect.signature(inspect.unwrap(type(model).prepare_inputs_labels_for_multimodal)).parameters
    extra = {name: batch[name] for name in ("modalities", "image_sizes") if name in batch and name in known}
    _, _, mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(*map(batch.get, names), **extra)
    assert mask.sum() < mask.numel() == embeds.shape[0] * embeds.shape[1]
    assert history(trainer, "supervised_share") == [
        pytest.approx(int((labels != -100).sum()) / int(mask.sum()), abs=1e-5)
    ]


def test_without_a_weight_the_loss_is_llavas(distil):
    """Equal up to rounding: the same tokens through the same head, but not those without a label."""
    TRAINERS.add("llavas_own", lambda llava_trainer: llava_trainer)
    try:
        theirs = distil("theirs", num_train_epochs=3, trainer_type="llavas_own")
    finally:
        TRAINERS.remove("llavas_own")
    ours = distil("ours", num_train_epochs=3)
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)
    assert history(ours, "loss_ce") == pytest.approx(losses(ours), abs=1e-4) and not history(ours, "loss_kl")
    batch = batch_of(ours)
    batch.pop("teacher", None)
    plain = ours.model(**batch).loss
    plain.backward()
    expected = {n: p.grad.clone() for n, p in ours.model.named_parameters() if p.requires_grad}
    ours.model.zero_grad()
    loss, _ = ours.distiller.loss(ours.model, ours.model, batch)
    loss.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=1e-6)
    for name, parameter in ours.model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("why", ["pretraining_tp", "output_router_logits", "sharded"])
def test_where_the_head_cannot_be_asked_at_answers_alone(why, distil):
    trainer = distil()
    assert asks_head_at_answers(trainer.model, sharded=False)
    config = trainer.model.get_base_model().config
    if why != "sharded":
        setattr(config, why, 2)
    assert not asks_head_at_answers(trainer.model, sharded=why == "sharded")
    trainer.at_answers, config.pretraining_tp, config.output_router_logits = False, 1, False
    loss = trainer.compute_loss(trainer.model, batch_of(trainer))
    expected, _ = trainer.distiller.loss(trainer.model, trainer.model, batch_of(trainer))
    torch.testing.assert_close(loss, expected)


def test_the_self_teacher_is_a_loaded_base_also_after_training(distil, world):
    trainer = distil(**KL, num_train_epochs=5, learning_rate=0.05, mm_projector_lr=0.05)
    batch = batch_of(trainer)["teacher"]
    student = trainer.model.get_base_model()
    config = type("Flags", (), {"teacher": str(world.base()), "teacher_base": None})
    loaded = LoadedTeacher(load_teacher(config, trainer.args, student), trainer.accelerator.autocast)
    expected, found = loaded.lesson(batch), trainer.distiller.teacher.lesson(batch)
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.answers.tokens, expected.answers.tokens)
    with torch.no_grad():  # and it is not the student, whose every part has moved
        batch = {name: value for name, value in batch.items() if name != "rows"}
        moved = trainer.model(**batch).logits
        trainer.model.eval()
        with trainer.distiller.teacher.as_base():
            base = trainer.model(**batch).logits
    assert moved.shape[1] > base.shape[1]
    assert trainer.model.get_base_model().get_model().mm_projector.forward.__self__ is student.get_model().mm_projector


def test_the_teacher_sees_the_ego_clip_and_the_student_the_exo_clip(distil, world):
    trainer = distil(**KL)
    first, second = (batch_of(trainer, [row]) for row in (0, 1))
    assert torch.equal(first["teacher"]["images"][0], second["images"][0])  # clip 1 is the ego view of sample 0
    assert not torch.equal(first["images"][0], first["teacher"]["images"][0])
    assert first["teacher"]["rows"] == [0]


def test_kl_is_zero_where_student_and_teacher_are_the_same(world, train, distil, tmp_path):
    """An untrained student without ego tokens that sees the ego clip itself is its teacher."""
    from llava_ego2exo.host.switches import tokens_off

    samples = distilling_samples(world)
    for sample in samples:
        sample["video"] = sample["ego_video"]
    trainer = distil(
        data_path=write_json(tmp_path / "same.json", samples), **KL, learning_rate=1e-12, mm_projector_lr=1e-12
    )
    with tokens_off():
        _, sums = trainer.distiller.loss(trainer.model, trainer.model, batch_of(trainer))
    assert sums.kl_tokens == sums.tokens > 0 and abs(sums.kl) < 1e-5 < sums.ce
    with torch.no_grad():
        _, apart = trainer.distiller.loss(trainer.model, trainer.model, batch_of(trainer))
    assert apart.kl > 0.01


@pytest.mark.parametrize("bits", [16, 4])
def test_gradients_reach_tokens_projector_and_lora_and_nothing_else(bits, distil):
    trainer = distil(**KL, **({"bits": 4, "bf16": True, "vision_tower_dtype": None} if bits == 4 else {}))
    trainer.model.zero_grad()
    trainer.model.train()
    loss, _ = trainer.distiller.loss(trainer.model, trainer.model, batch_of(trainer))
    loss.backward()
    reached = {name for name, p in trainer.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name for name in reached if "lora_" not in name and "mm_projector" not in name} == set()
    wanted = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert wanted - reached == set()
    assert any("ego_tokens.reader.tokens" in name for name in reached)


@pytest.mark.parametrize("way", ["self", "path", "whole model"])
def test_a_step_leaves_the_teacher_as_it_was(way, distil, world):
    flags = {} if way == "self" else {"ego2exo_teacher": world.base()}
    flags |= {"lora_enable": False} if way == "whole model" else {}
    trainer = distil(**KL, **flags, num_train_epochs=2)
    from safetensors.torch import load_file

    stored = load_file(world.base() / "model.safetensors")
    model = trainer.model.get_base_model() if way == "self" else trainer.distiller.teacher.model
    state = {name.replace("base_layer.", ""): value for name, value in model.state_dict().items()}
    if way == "self":
        frozen = trainer.distiller.teacher.frozen.state_dict()
        state |= {f"model.mm_projector.{name}": value for name, value in frozen.items()}
    else:
        assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    for name, value in stored.items():
        assert torch.equal(state[name], value), name


def test_a_path_teacher_teaches_as_the_base_itself(distil, world):
    ours, theirs = (
        distil("a", **KL, num_train_epochs=3),
        distil("b", **KL, num_train_epochs=3, ego2exo_teacher=world.base()),
    )
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-4)
    assert history(ours, "loss_kl") == pytest.approx(history(theirs, "loss_kl"), rel=1e-4)


def test_a_lora_teacher_with_its_base(distil, world, tmp_path):
    distil("teacher", num_train_epochs=4)
    trainer = distil(**KL, ego2exo_teacher=tmp_path / "teacher", ego2exo_teacher_base=world.base())
    assert history(trainer, "loss_kl")[0] > 0
    from llava_ego2exo.host.projector import ego_branch

    assert ego_branch(trainer.distiller.teacher.model.get_model().mm_projector) is not None


def stored_answers(trainer, folder, cut=slice(None)):
    """What a teacher says about each sample, as `teach --top-k` with k = V would have stored it."""
    samples = []
    for row, sample in enumerate(trainer.train_dataset.list_data_dict):
        lesson = trainer.distiller.teacher.lesson(batch_of(trainer, [row])["teacher"])
        with torch.no_grad():
            logits, ids = lesson.head(lesson.hidden).sort(dim=-1, descending=True)
        key = key_of(sample["id"])
        write_logits(folder, key, *(value[cut].numpy() for value in (lesson.answers.tokens, ids, logits)))
        samples.append({**sample, "answer_keys": [key]})
    return samples


def test_stored_logits_of_the_whole_vocabulary_teach_as_the_model_does(distil, world, tmp_path):
    online = distil("online", **KL, ego2exo_teacher=world.base(), num_train_epochs=3)
    data = write_json(tmp_path / "keys.json", stored_answers(online, tmp_path / "answers"))
    cached = {"ego2exo_teacher": "cached", "ego2exo_answers": tmp_path / "answers", "data_path": data}
    trainer = distil("cached", **KL, **cached, num_train_epochs=3)
    assert losses(trainer) == pytest.approx(losses(online), rel=1e-4)
    assert history(trainer, "kl_tokens") == history(online, "kl_tokens")


def test_replayed_samples_get_cross_entropy_alone(distil, world, tmp_path):
    samples = distilling_samples(world)
    text = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    data = write_json(tmp_path / "mixed.json", [*samples[:2], {"id": "t", "conversations": text, "replay": True}])
    trainer = distil(**KL, data_path=data)
    batch = batch_of(trainer, range(3))
    assert batch["teacher"]["rows"] == [0, 1]
    taught = int((batch["labels"][:2] != -100).sum())
    assert history(trainer, "kl_tokens") == [taught] and history(trainer, "answer_tokens")[0] * 3 > taught
    mixed = trainer.distiller.loss(trainer.model, trainer.model, batch_of(trainer, [2, 0, 1]))[1]
    each = [trainer.distiller.loss(trainer.model, trainer.model, batch_of(trainer, [row]))[1] for row in (0, 1)]
    assert mixed.kl == pytest.approx(sum(sums.kl for sums in each), rel=1e-4)  # each token with its own teacher's
    alone = trainer.data_collator([trainer.train_dataset[2]])
    assert "teacher" not in alone
    loss, sums = trainer.distiller.loss(trainer.model, trainer.model, alone)
    assert sums.kl == sums.kl_tokens == 0 and float(loss.detach()) == pytest.approx(sums.ce / sums.tokens)


@pytest.mark.parametrize("flags", [{}, KL], ids=["ce", "kl"])
def test_a_masked_batch_is_harmless(flags, distil):
    trainer = distil(**flags)
    before = trainer.sums
    batch = batch_of(trainer)
    for part in (batch, batch.get("teacher", {})):
        if "labels" in part:
            part["labels"] = torch.full_like(part["labels"], -100)
    trainer.model.zero_grad()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert float(loss.detach()) == 0 and before.masked == 4 and before.tokens == 0
    gradients = [p.grad for p in trainer.model.parameters() if p.requires_grad]
    assert all(g is not None and torch.equal(g, torch.zeros_like(g)) for g in gradients)


@pytest.mark.parametrize("flags", [{}, KL], ids=["ce", "kl"])
def test_a_run_of_masked_samples_is_an_error(flags, distil, kinds, world, capsys, tmp_path):
    """Rows so short that LLaVA cuts every answer off, though template tokens of the prompt are left."""
    with pytest.raises(Ego2ExoError, match="all 4 samples of the first batch.*4 were cut at --model_max_length.*raise"):
        distil(kind=kinds[-1], **flags, model_max_length=30)
    told = capsys.readouterr().out
    for line in ("4 of 4 samples had no token of an answer left", "4 of 4 samples were cut at --model_max_length"):
        assert f"ego2exo: first batch: {line}" in told
    assert not (tmp_path / "s" / "config.json").exists()


def test_samples_that_lose_their_answer_are_counted(distil, kinds, world, capsys, tmp_path):
    samples = distilling_samples(world)
    samples[1]["conversations"][0]["value"] += " What moves?" * 60
    whole = distil("whole", kind=kinds[-1], max_steps=1)
    limit = max(whole.train_dataset[row]["labels"].numel() for row in (0, 2, 3)) + 4 * 16 + 8
    assert "--model_max_length" not in capsys.readouterr().out
    flags = {"data_path": write_json(tmp_path / "long.json", samples), "model_max_length": limit}
    with pytest.raises(Ego2ExoError, match="1 of 4 samples of the first batch.*no token of an answer.*ego2exo_max_bad"):
        distil("refused", kind=kinds[-1], **flags)
    capsys.readouterr()
    distil(kind=kinds[-1], **flags, ego2exo_max_bad=1)
    told = capsys.readouterr().out
    assert "1 of 4 samples had no token of an answer left" in told and "1 of 4 samples were cut" in told


def test_rows_that_are_cut_use_their_common_head(distil, capsys):
    whole = distil("whole", **KL)
    expanded = whole.model.get_base_model()
    batch = batch_of(whole, [2])
    with torch.no_grad():
        from llava_ego2exo.host.answer_pass import answer_states

        answers, _ = answer_states(expanded, whole.model, {k: v for k, v in batch.items() if k != "teacher"})
    limit = int(answers.places[-1]) - 4  # the student's row has ego tokens and loses its end, the teacher's fits
    trainer = distil("cut", **KL, model_max_length=limit)
    lost = history(whole, "kl_tokens")[0] - history(trainer, "kl_tokens")[0]
    assert lost >= 4 and history(trainer, "loss_kl")[0] > 0
    trainer.model.config.tokenizer_model_max_length = 4096
    _, sums = trainer.distiller.loss(trainer.model, trainer.model, batch_of(trainer, [2]))
    assert sums.left_out == 0


def test_stored_answers_whose_first_token_had_a_blank(distil, kinds, world, tmp_path, capsys):
    """The first token alone has no KL, as its logits are those of another token's place."""
    from llava_ego2exo.host.tokenizers import read_tokenizer

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
    assert "ego2exo: KL found for 4 of 4 answers looked at" in capsys.readouterr().out
    assert kept - 4 <= history(trainer, "kl_tokens")[0] <= kept and history(trainer, "loss_kl")[0] > 0


@pytest.mark.parametrize("flags", [{}, KL], ids=["ce", "kl"])
def test_no_full_logits_exist_in_a_step(flags, distil, monkeypatch):
    """Both vocabularies' logits are made in chunks, forward and backward; transformers makes none of its own."""
    from llava_ego2exo.method import losses as module

    trainer = distil(**flags)
    vocabulary = trainer.model.config.vocab_size
    monkeypatch.setattr(module.distillation_sums, "__defaults__", (None, 1.0, 3 * vocabulary))
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
        loss, sums = trainer.distiller.loss(trainer.model, trainer.model, batch)
        loss.backward()
    assert seen.most == 3 < sums.tokens


@pytest.mark.parametrize("flags", [{}, KL], ids=["ce", "kl"])
def test_accumulation_over_four_is_a_batch_of_four(flags, distil, monkeypatch):
    """Answers of unequal length: the same gradients, loss and logged terms."""
    with recorded_gradients(monkeypatch) as steps:
        whole = distil("whole", **flags, per_device_train_batch_size=4, max_steps=1)
        parts = distil("parts", **flags, per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=1)
    assert_same_gradients(steps[1], steps[0])
    assert losses(parts) == pytest.approx(losses(whole), abs=2e-4)
    for name in ("loss_ce", "answer_tokens", "supervised_share", *(("loss_kl", "kl_tokens") if flags else ())):
        assert history(parts, name) == pytest.approx(history(whole, name), rel=1e-4)
    lengths = {int((whole.train_dataset[row]["labels"] != -100).sum()) for row in range(4)}
    assert len(lengths) > 2, "a mean of means would be right too"


def test_an_epoch_shorter_than_the_accumulation(distil, monkeypatch):
    """transformers steps at its end; the mean is over what there is."""
    with recorded_gradients(monkeypatch) as steps:
        distil("whole", **KL, per_device_train_batch_size=4, max_steps=1)
        distil("parts", **KL, per_device_train_batch_size=1, gradient_accumulation_steps=6, num_train_epochs=1)
    assert_same_gradients(steps[1], steps[0])


@pytest.mark.parametrize("bits", [16, 4])
def test_a_distilled_student_loads_and_answers(bits, world, kinds, distil, tmp_path):
    from llava.model.builder import load_pretrained_model

    from llava_ego2exo.demo.ask import ask

    kind = kinds[-1]
    quantized = {"bits": 4, "bf16": True, "vision_tower_dtype": None} if bits == 4 else {}
    trainer = distil(kind=kind, **KL, num_train_epochs=12, **quantized)
    assert losses(trainer)[-1] < 0.7 * losses(trainer)[0]
    options = {"torch_dtype": "bfloat16", "load_4bit": True} if bits == 4 else {"torch_dtype": "float32"}
    loaded = load_pretrained_model(str(tmp_path / "s"), str(world.base(kind)), "x", **options)
    video = sorted(world.videos.glob("*.mp4"))[0]
    assert ask(loaded, str(video), "What moves, and where to?", world.template(kind), frames_upbound=4)


def test_a_resumed_run_is_the_same_run(distil, tmp_path):
    """The projector that the self-teacher uses is the base's, not the resumed one."""
    flags = {**KL, "num_train_epochs": 6, "save_strategy": "steps", "save_steps": 3}
    whole = distil("whole", **flags)
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    resumed = distil("cut", **flags)
    assert losses(resumed) == losses(whole) and history(resumed, "loss_kl") == history(whole, "loss_kl")
    for name, value in whole.model.named_parameters():
        assert torch.equal(value, resumed.model.get_parameter(name)), name
    with pytest.raises(Ego2ExoError, match="made with other flags.*kd_temperature: 2.0 / 3.0"):
        distil("cut", **{**flags, "ego2exo_kd_temperature": 3.0})


OTHER = {
    "checkpointing": {"gradient_checkpointing": True},
    "ego tokens alone": {"ego2exo_visual_tokens": False},
    "workers": {"dataloader_num_workers": 1},
    "time instruction": {"add_time_instruction": True},
    "quantized teacher": {"bits": 4, "bf16": True, "vision_tower_dtype": None, "teacher": True},
    "bfloat16 teacher": {"bf16": True, "vision_tower_dtype": None, "teacher": True},
}


@pytest.mark.parametrize("name", OTHER)
def test_other_settings(name, distil, world):
    flags = dict(OTHER[name])
    if flags.pop("teacher", False):
        flags["ego2exo_teacher"] = world.base()
    trainer = distil(**KL, **{**PLAIN, **flags})
    assert 0 < history(trainer, "loss_kl")[0] < 10 and history(trainer, "kl_tokens")[0] > 20


def test_without_matplotlib_a_line_says_so(monkeypatch, tmp_path):
    import importlib.util

    from llava_ego2exo.host.loss_plots import plot_losses

    entries = [{"loss": 1.0, "step": 1}, {"loss": 0.5, "step": 2}]
    assert plot_losses(entries[:1], str(tmp_path)).startswith("no plots: fewer than two steps")
    assert plot_losses(entries, str(tmp_path)).endswith("losses.png") and (tmp_path / "losses.png").is_file()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "matplotlib is not installed (pip install 'llava-ego2exo[report]')" in plot_losses(entries, str(tmp_path))


@pytest.mark.slow
def test_two_processes_are_one(distil, world, tmp_path, monkeypatch):
    """Two processes with two small batches each, and an epoch that is shorter than the accumulation."""
    samples = distilling_samples(world)
    samples[1] = {**{name: value for name, value in samples[1].items() if name != "ego_video"}, "replay": True}
    data = write_json(tmp_path / "mixed.json", samples)
    flags = {**KL, **PLAIN, "data_path": data, "max_steps": 1}
    with recorded_gradients(monkeypatch) as steps:
        whole = distil("one", **flags, per_device_train_batch_size=4)
    flags |= {"per_device_train_batch_size": 1, "ddp_backend": "gloo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.host.distilling_worker", str(tmp_path)]
    command += world.arguments(tmp_path / "two", **flags, gradient_accumulation_steps=2)
    command += ["--", *world.arguments(tmp_path / "short", **flags, gradient_accumulation_steps=3)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    ranks = [torch.load(tmp_path / f"gradients-{rank}.pt") for rank in (0, 1)]
    for rank in ranks:
        for run in rank:
            assert_same_gradients(run[0], steps[0])
    for name in ("two", "short"):
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"][0]
        for key in ("loss", "loss_ce", "loss_kl", "kl_tokens", "answer_tokens", "supervised_share"):
            assert state[key] == pytest.approx(history(whole, key)[0], rel=1e-3), (name, key)
