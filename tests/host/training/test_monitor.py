"""Runs that are broken on purpose stop by name, before the optimizer steps; saved files are verified."""

import contextlib
import json
import math
from types import SimpleNamespace

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host import run as run_module
from llava_ego2exo.host.settings import Run
from llava_ego2exo.host.trainer import DistillingMixin
from llava_ego2exo.host.training import verification
from llava_ego2exo.host.training.losses import LossStats
from llava_ego2exo.host.training.monitor import FirstGradientCheck, TrainingMonitor, require_answers
from llava_ego2exo.host.training.verification import require_same

from .distillation import distilling_samples, write_json

TEN = {"max_steps": 10, "per_device_train_batch_size": 2}


def test_a_weight_that_is_no_number_stops_the_run(train, tmp_path, monkeypatch):
    step = DistillingMixin.training_step

    def spoiled(self, *args, **kwargs):
        if self.state.global_step == 3:
            next(p for n, p in self.model.named_parameters() if "mm_projector.0.weight" in n).data[0, 0] = math.inf
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DistillingMixin, "training_step", spoiled)
    with pytest.raises(Ego2ExoError) as caught:
        train(tmp_path / "s", **TEN)
    assert "loss of step 4 is not finite" in caught.value.given
    assert "mm_projector.0.weight" in caught.value.given
    assert not (tmp_path / "s" / "adapter_config.json").exists()


def test_ego_tokens_cut_off_from_the_loss(train, tmp_path, monkeypatch):
    """Without the check such a run ends like a good one."""
    from llava_ego2exo.method.ego_tokens import EgoBranch

    forward = EgoBranch.forward

    def cut_off(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        return out.detach() if isinstance(out, torch.Tensor) else [part.detach() for part in out]

    monkeypatch.setattr(EgoBranch, "forward", cut_off)
    with pytest.raises(Ego2ExoError, match="no gradient reached .*ego_tokens"):
        train(tmp_path / "s", **TEN)


def test_a_sound_run_has_all_its_gradients(student):
    assert student().trainer.monitor.gradients is None


class Adapted(torch.nn.Module):
    """Weights named as a student's."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(ego2exo_visual_tokens=True)
        for name in ("lora_a", "lora_b", "expert"):
            setattr(self, name, torch.nn.Parameter(torch.ones(2)))


def gradients(model, **values):
    for name, value in values.items():
        model.get_parameter(name).grad = None if value is None else torch.full((2,), value)


def test_first_gradients():
    model = Adapted()
    check = FirstGradientCheck(model)  # an expert may wait for its first token
    gradients(model, lora_a=0.0, lora_b=1.0, expert=None)
    check.check()
    gradients(model, lora_a=1.0, lora_b=math.nan)  # which had one, and is no longer watched
    check.check()
    assert not check.pending
    gradients(model, lora_a=math.inf, lora_b=1.0)
    with pytest.raises(Ego2ExoError, match="not finite.*lora_a"):
        FirstGradientCheck(model).check()
    FirstGradientCheck(model).check(scaled=True)
    check = FirstGradientCheck(model)
    gradients(model, lora_a=0.0)
    for _ in range(7):
        check.check()
    with pytest.raises(Ego2ExoError, match="in 8 step.*lora_a"):
        check.check()


def monitor_of(samples=1000):
    config, args = SimpleNamespace(kd_weight=1.0), SimpleNamespace(learning_rate=1e-5)
    trainer = SimpleNamespace(
        model=torch.nn.Linear(2, 2), args=args, distiller=SimpleNamespace(config=config), train_dataset=range(samples),
        state=SimpleNamespace(global_step=5), whole=LossStats(),
    )  # fmt: skip
    return TrainingMonitor(trainer)


def test_losses_that_no_run_should_have():
    monitor = monitor_of()
    monitor.check(LossStats(tokens=4.0, ce_tokens=4.0, samples=2.0, ce=8.0), clip=False)
    monitor.check(LossStats(samples=2.0, kl_tokens=4.0, left_out=4.0, on_policy=1.0), clip=False)  # none that counts
    for stats, word in (({"ce": 0.0}, "exactly 0"), ({"ce": math.inf}, "cross-entropy inf"), ({"kl": math.nan}, "nan")):
        with pytest.raises(Ego2ExoError, match=word):
            monitor.check(LossStats(tokens=4.0, ce_tokens=4.0, samples=2.0, **stats), clip=False)


@pytest.mark.parametrize(("without", "refused"), [(9, False), (11, True)])
def test_samples_without_an_answer_are_judged_by_the_whole_file(without, refused):
    """In any order: a batch that happens to be all masked decides nothing, a file that is does."""
    masked = [1.0] * without + [0.0] * (100 - without)
    for order in (masked, masked[::-1]):
        seen = LossStats()
        with pytest.raises(Ego2ExoError) if refused else contextlib.nullcontext():
            for value in order:
                seen.add(LossStats(samples=1, masked=value, cut=value))
                require_answers(seen, 100)


def test_a_run_in_which_every_sample_is_masked_saves_nothing():
    monitor = monitor_of()
    monitor.on_train_end()
    for total in (LossStats(samples=3, masked=3), LossStats(unreadable=2)):
        monitor.trainer.whole = total
        with pytest.raises(Ego2ExoError):
            monitor.on_train_end()


@pytest.fixture
def verify(student, tmp_path, registered):
    """Verify a copy of the shared student whose files may be damaged first."""

    def run(damage=None, choice="auto"):
        trained = student()
        folder = tmp_path / "copy"
        if not folder.exists():
            trained.copy(folder)
        if damage is not None:
            damage(folder / "non_lora_trainables.bin")
        settings = {"output_dir": folder, "model_name_or_path": str(trained.base), "bf16": False, "fp16": False}
        settings |= {"bits": 16, "ego2exo_check_saved": choice}
        verification.verify_saved(settings, Run(trainer=trained.trainer))

    return run


def other_weights(file):
    found = torch.load(file, weights_only=True)
    torch.save({key: torch.randn_like(value) for key, value in found.items()}, file)


def half_a_file(file):
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(("damage", "message"), [(other_weights, "logits differ by"), (half_a_file, "does not load")])
def test_saved_files_that_are_another_model(damage, message, verify):
    with pytest.raises(Ego2ExoError, match=message):
        verify(damage)


def test_a_saved_student_is_verified_or_the_reason_why_not_is_reported(verify, monkeypatch, capsys):
    verify()
    assert "the saved student equals the one in memory on sample 00_red_left" in capsys.readouterr().out

    def full(*_args):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(verification, "_load", full)
    verify()
    assert "was not verified: no memory left on cpu" in capsys.readouterr().out
    with pytest.raises(Ego2ExoError, match="--ego2exo_check_saved maybe"):
        verification.require_choice("maybe")


def test_tokens_that_the_loader_cuts_off_are_no_difference():
    """A vocabulary larger than the tokenizer's: the model in memory may like a row best that the loaded one lacks."""
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert require_same(logits, logits[:, :6], "full", "s") == 0
    for wrong in (logits[:, :6].flip(1), logits[:, :6] + 0.1, logits[:, :6] * float("nan")):
        with pytest.raises(Ego2ExoError):
            require_same(logits, wrong, "full", "s")


def test_a_checkpoint_of_other_files_is_refused(world, train, tmp_path, monkeypatch):
    samples = distilling_samples(world)
    flags = {"data_path": write_json(tmp_path / "d.json", samples), "save_strategy": "steps", "save_steps": 1}
    flags["max_steps"] = 1
    train(tmp_path / "s", **flags)
    monkeypatch.setattr(run_module, "_train", lambda *_: pytest.fail("it was trained"))
    manifest = tmp_path / "s" / "checkpoint-1" / "ego2exo_checkpoint.json"
    stored = json.loads(manifest.read_text())

    less = {**flags, "data_path": write_json(tmp_path / "less.json", samples[:3])}
    for word, run, given in (("less.json", {}, less), ("f" * 32, {"base": "f" * 32}, flags)):
        manifest.write_text(json.dumps({**stored, "run": {**stored["run"], **run}}))
        with pytest.raises(Ego2ExoError) as caught:
            train(tmp_path / "s", **given)
        assert word in caught.value.given
