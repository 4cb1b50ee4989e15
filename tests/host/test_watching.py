"""Numbers by accident: runs that are broken on purpose stop by name, before a step is taken on them."""

import json
import math

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host import run as run_module
from llava_ego2exo.host import saved_check, watching
from llava_ego2exo.host.first_reply import Reply
from llava_ego2exo.host.first_steps import GradientWatch
from llava_ego2exo.host.loss_checks import LossChecks
from llava_ego2exo.host.tally import Sums

from .distilling import distilling_samples, write_json

pytestmark = pytest.mark.fault
TEN = {"max_steps": 10, "per_device_train_batch_size": 2}


def spoil(monkeypatch, when):
    """Call `when(trainer, steps done)` before each small batch."""
    original = watching.watching

    def made(trainer):
        class Spoiled(original(trainer)):
            def training_step(self, model, inputs, *args, **kwargs):
                when(self, int(self.state.global_step))
                return super().training_step(model, inputs, *args, **kwargs)

        return Spoiled

    from llava_ego2exo.host import trainer

    monkeypatch.setattr(trainer, "watching", made)


def weight_of(trainer, part):
    return next(p for name, p in trainer.model.named_parameters() if part in name)


def set_at(part, step, value):
    def when(trainer, steps):
        if steps == step:
            weight_of(trainer, part).data.flatten()[0] = value

    return when


def hooked(part, change):
    def when(trainer, steps):
        if steps == 0:
            weight_of(trainer, part).register_hook(change)

    return when


BROKEN = {
    "a weight that is nan at the start": (
        set_at("mm_projector.0.weight", 0, math.nan),
        r"loss of step 1 is not finite.*weights are not finite before the first step: .*mm_projector",
    ),
    "a weight that grows without bound": (
        set_at("mm_projector.0.weight", 3, math.inf),
        r"loss of step 4 is not finite, behind .* weights are no longer finite: .*mm_projector.*--learning_rate 0.005",
    ),
    "a gradient that is not finite": (
        hooked("ego_tokens.reader.tokens", lambda g: g * math.inf),
        r"gradients of 1 tensors are not finite in step 1 .*ego_tokens.reader.tokens",
    ),
    "a gradient that is always zero": (
        hooked("ego_tokens.reader.tokens", torch.zeros_like),
        r"no gradient other than 0 reached 1 of .* in the first 8 step.*ego_tokens.reader.tokens",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_stops_by_name(name, train, tmp_path, monkeypatch, fault_table):
    when, message = BROKEN[name]
    spoil(monkeypatch, when)
    with pytest.raises(Ego2ExoError, match=f"(?s){message}"):
        train(tmp_path / "s", **TEN)
    assert not (tmp_path / "s" / "adapter_config.json").exists()
    fault_table(f"training on {name}: stopped by name", 1, 1)


def test_a_part_that_no_gradient_reaches(train, tmp_path, monkeypatch, fault_table):
    """The ego tokens cut off from the loss: what the reference code's trainer did not notice."""
    from llava_ego2exo.host import vision  # noqa: F401
    from llava_ego2exo.method.branch import EgoBranch

    forward = EgoBranch.forward

    def cut_off(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        return out.detach() if isinstance(out, torch.Tensor) else [part.detach() for part in out]

    monkeypatch.setattr(EgoBranch, "forward", cut_off)
    with pytest.raises(Ego2ExoError, match=r"no gradient .*reached \d+ of \d+ trainable tensors.*ego_tokens"):
        train(tmp_path / "s", **TEN)
    fault_table("ego tokens cut off from the loss: stopped by name", 1, 1)


def test_a_learning_rate_that_is_too_high(train, tmp_path, fault_table):
    with pytest.raises(Ego2ExoError, match=r"(?s)(not finite|exactly 0).*lower (the learning rates|--learning_rate)"):
        train(tmp_path / "s", max_steps=60, learning_rate=1e20, mm_projector_lr=1e20)
    fault_table("learning rate of 1e20: stopped by name", 1, 1)


def test_what_is_told_of_a_run_that_is_well(world, train, tmp_path, capsys):
    trainer = train(tmp_path / "s", **TEN)
    told = capsys.readouterr().out
    count = sum(p.requires_grad for p in trainer.model.parameters())
    assert f"with a clip: all finite, and other than 0 for {count} of {count} trainable tensors" in told
    assert trainer.gradients is None  # and nothing is looked at from then on
    text = [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "It."}]
    samples = [{"id": "t", "conversations": text}] * 4
    data = write_json(tmp_path / "texts.json", samples)
    alone = train(tmp_path / "texts", data_path=data, **TEN)
    assert alone.gradients is not None  # no clip has come yet


def test_losses_that_no_run_should_have():
    args = type("Args", (), {"learning_rate": 1e-5, "fp16": True})
    model = torch.nn.Linear(2, 2)

    def look(checks, step=5, **sums):
        checks.look(Sums(**{"tokens": 4.0, "samples": 2.0, **sums}), step, model, args)

    checks = LossChecks(1.0)
    look(checks, ce=8.0)
    with pytest.raises(Ego2ExoError, match="loss of step 6 is exactly 0 over 4 answer tokens; .* before was 2"):
        look(checks)
    with pytest.raises(Ego2ExoError, match="all weights are finite.*float16 ends at 65504.*--bf16"):
        look(checks, ce=math.inf)
    with pytest.raises(Ego2ExoError, match="the KL alone is not.*teacher"):
        look(checks, ce=1.0, kl=math.nan)
    with pytest.raises(Ego2ExoError, match="1 of 2 samples of the first batch have no token"):
        look(checks, step=0, ce=1.0, masked=1.0)
    look(LossChecks(1.0, allowed=1), step=0, ce=1.0, masked=1.0)
    for _ in range(9):
        look(checks, tokens=0.0)
    with pytest.raises(Ego2ExoError, match="no answer token was left in 10 global batches in a row, up to step 6"):
        look(checks, tokens=0.0)


def test_loss_scaling_may_overflow_at_first_but_not_for_ever():
    model = torch.nn.Linear(2, 2)
    watch = GradientWatch(model, lambda _name: True)
    for p in model.parameters():
        p.grad = torch.full_like(p, math.inf)
    for _ in range(30):
        assert watch.look(scaled=True) == []
    with pytest.raises(Ego2ExoError, match="not finite in every one of the first steps.*--bf16 True"):
        watch.look(scaled=True)
    expert = GradientWatch(model, lambda name: name != "bias")
    model.weight.grad, model.bias.grad = torch.ones_like(model.weight), None
    told = [line for _ in range(8) for line in expert.look(scaled=False)]
    assert told == [told[0]] and "1 of 2 trainable tensors; none yet for bias" in told[0] and expert.done


WAYS = {
    "lora": ({}, "non_lora_trainables.bin"),
    "projector": ({"lora_enable": False, "tune_mm_mlp_adapter": True}, "mm_projector.bin"),
}


@pytest.mark.parametrize("way", WAYS)
def test_saved_files_that_are_another_model(way, train, tmp_path, monkeypatch, capsys, fault_table):
    flags, name = WAYS[way]
    original, damage = saved_check.check_saved, []

    def check(settings, run):
        file = tmp_path / "s" / name
        if damage == ["other weights"]:
            found = torch.load(file, weights_only=True)
            torch.save({key: torch.randn_like(value) for key, value in found.items()}, file)
        elif damage == ["half a file"]:
            file.write_bytes(file.read_bytes()[:1000])
        original(settings, run)

    monkeypatch.setattr(run_module, "check_saved", check)
    flags = {**flags, "num_train_epochs": 2, "ego2exo_check_saved": "auto"}
    train(tmp_path / "s", **flags)
    assert (
        "the saved student, loaded anew, answers sample 00_red_left as the one in memory did" in capsys.readouterr().out
    )
    damage[:] = ["other weights"]
    with pytest.raises(Ego2ExoError, match="its files do not give the model that was trained: about sample 00_red"):
        train(tmp_path / "s", **flags)
    damage[:] = ["half a file"]
    with pytest.raises(Ego2ExoError, match="what was saved to .* does not load"):
        train(tmp_path / "s", **flags)
    fault_table("saved student damaged: the end of the run says so", 2, 2)


@pytest.mark.parametrize(("said", "same"), [(5, True), (1, False)])
def test_tokens_that_the_loader_cuts_off_are_no_difference(said, same):
    """A vocabulary larger than the tokenizer's: the model in memory may like a row best that the loaded one lacks."""
    mine = torch.arange(8.0)[None]  # the best of the six rows that both have is number 5
    memory = Reply("", torch.tensor([7]), mine)
    loaded = Reply("a", torch.tensor([said]), mine[:, :6])
    compared = (memory, loaded, "0", "full", {"output_dir": "s"})
    if same:
        assert "as the one in memory did" in saved_check._compared(*compared)
    else:
        with pytest.raises(Ego2ExoError, match="do not give the model that was trained"):
            saved_check._compared(*compared)


def test_what_was_saved_is_not_compared_where_it_does_not_fit(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saved_check, "_free", lambda _device: 1e3)
    train(tmp_path / "s", max_steps=1, ego2exo_check_saved="auto")
    assert "is not compared with the model in memory: loading it takes 0.0 GB on cpu" in capsys.readouterr().out
    with pytest.raises(Ego2ExoError, match="--ego2exo_check_saved maybe. Allowed: auto, True, False"):
        train(tmp_path / "s", ego2exo_check_saved="maybe")


def test_another_run_is_refused_and_told_by_what_differs(world, train, tmp_path, monkeypatch, capsys, fault_table):
    samples = distilling_samples(world)
    data = write_json(tmp_path / "d.json", samples)
    flags = {"data_path": data, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    train(tmp_path / "s", **flags)
    monkeypatch.setattr(run_module, "_train", lambda *_: pytest.fail("it was trained"))
    other = {
        "seed: 42 / 7": {"seed": 7},
        "per_device_train_batch_size: 4 / 2": {"per_device_train_batch_size": 2},
        "gradient_accumulation_steps: 1 / 2": {"gradient_accumulation_steps": 2},
        "lora_r: 16 / 8": {"lora_r": 8},
        "ego2exo_lr: None / 0.001": {"ego2exo_lr": 0.001},
        "ego2exo_kd_weight: 0.0 / 0.5": {"ego2exo_kd_weight": 0.5},
        "content of --data_path .*less.json": {"data_path": write_json(tmp_path / "less.json", samples[:3])},
    }
    for line, given in other.items():
        with pytest.raises(Ego2ExoError, match=f"checkpoint-1 would be resumed.*{line}"):
            train(tmp_path / "s", **{**flags, **given})
    manifest = tmp_path / "s" / "checkpoint-1" / "ego2exo_checkpoint.json"
    stored = json.loads(manifest.read_text())
    for key, line in (("base", "weights of --model_name_or_path"), ("teacher", "teacher's content")):
        changed = {**stored, "run": {**stored["run"], key: "f" * 32}}
        manifest.write_text(json.dumps(changed))
        with pytest.raises(Ego2ExoError, match=f"checkpoint-1 would be resumed.*{line}.*: {'f' * 32} / "):
            train(tmp_path / "s", **flags)
    manifest.write_text(
        json.dumps({**stored, "run": {**stored["run"], "flags": {**stored["run"]["flags"], "save_only_model": True}}})
    )
    with pytest.raises(Ego2ExoError, match="without the optimizer's state"):
        train(tmp_path / "s", **flags)
    manifest.write_text(json.dumps(stored))
    capsys.readouterr()
    with pytest.raises(pytest.fail.Exception):
        train(tmp_path / "s", **{**flags, "learning_rate": 1e-3, "max_steps": 2, "logging_steps": 5})
    told = capsys.readouterr().out
    assert "other flags than before (checkpoint / now): learning_rate: 0.005 / 0.001; max_steps: 1 / 2" in told
    fault_table(
        "checkpoint of another run in the output folder: refused by what differs", len(other) + 3, len(other) + 3
    )
