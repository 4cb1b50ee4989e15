"""The table of hooks and fixes: each applies to the host as it is, and each fix can be switched off; registries."""

import importlib
import inspect
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import llava_ego2exo
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.hooks import table
from llava_ego2exo.host.hooks.flavour import original_projector_builder
from llava_ego2exo.host.hooks.install import resolve, substituted
from llava_ego2exo.host.model.projector import check_type
from llava_ego2exo.registry import PROJECTORS, TRAINERS, Registry

from ..models import Batch, branch_of, build, check_rows, is_next

FLAVOUR = "next" if is_next() else "pypi"
OURS = [seam for seam in table.SEAMS if FLAVOUR in seam.flavours]
UNNEEDED = ("LLaVATrainer.create_accelerator_and_postprocess",)  # accelerate < 1.0 has no need of this fix


@pytest.fixture(autouse=True)
def unregistered(monkeypatch):
    monkeypatch.delenv(table.FIXES_VARIABLE, raising=False)
    llava_ego2exo.unregister()
    yield
    llava_ego2exo.unregister()


def snapshot() -> dict:
    """Every object a seam may touch: by place, the owner's own dictionary entry and the value."""
    found = {}
    for seam in OURS:
        module = importlib.import_module(seam.module)
        if seam.target:
            owner, name = resolve(module, seam.target)
            found[seam.module, seam.target] = (name in vars(owner), inspect.getattr_static(owner, name))
        else:
            found[seam.module, "names"] = sorted(vars(module))
    return found


def changed(first: dict, second: dict) -> set:
    """Places whose object is another one."""
    assert first.keys() == second.keys()
    return {
        place for place, value in first.items()
        if not (value == second[place] if isinstance(value, list)
                else value[0] == second[place][0] and value[1] is second[place][1])
    }  # fmt: skip


def test_a_changed_or_missing_original_is_refused():
    """By the seam's name, and nothing is replaced."""
    clean = snapshot()
    for seam in {(s.module, s.target): s for s in reversed(OURS) if s.params and s.target}.values():
        owner, name = resolve(importlib.import_module(seam.module), seam.target)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, lambda another: None)
            before = snapshot()
            with pytest.raises(Ego2ExoError, match=f"seam {seam.key}: .*{name} lacks") as caught:
                llava_ego2exo.register()
            assert (f"{table.FIXES_VARIABLE}=all,-{seam.key}" in str(caught.value)) == (seam.kind == "fix")
            assert not changed(before, snapshot())
            patch.undo()
            if seam.kind == "hook":
                patch.delattr(owner, name)
                with pytest.raises(Ego2ExoError, match=f"seam {seam.key}: .*{name} does not exist"):
                    llava_ego2exo.register()
    assert not changed(clean, snapshot())


def test_each_fix_can_be_left_out():
    before = snapshot()
    for key in sorted({seam.key for seam in OURS if seam.kind == "fix"}):
        llava_ego2exo.register(fixes=f"all,-{key}")
        found = changed(before, snapshot())
        llava_ego2exo.unregister()
        places = [(s.key == key, (s.module, s.target or "names")) for s in OURS if s.target not in UNNEEDED]
        others = {place for own, place in places if not own}
        assert not {place for own, place in places if own} - others & found, key
        assert {place for place in others if place[1] != "names"} <= found, key


def test_which_fixes(monkeypatch):
    monkeypatch.setenv(table.FIXES_VARIABLE, "none")
    assert table.enabled_fixes() == frozenset()
    assert table.enabled_fixes("accelerator") == {"accelerator"}
    assert table.enabled_fixes("all") == {seam.key for seam in table.FIXES}
    assert table.enabled_fixes("none, resume , modalities,-resume") == {"modalities"}
    monkeypatch.setenv(table.FIXES_VARIABLE, "nonsense")
    for fixes in (None, "all,-nonsense", "all,,-resume"):
        with pytest.raises(Ego2ExoError, match="fixes .*siglip-folder"):
            llava_ego2exo.register(fixes=fixes)


def test_without_fixes_ego_tokens_work():
    llava_ego2exo.register(fixes="none")
    check_rows(build(), Batch("..V..", ".I.V"))


def python(code: str, **environment) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_without_llava(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(Ego2ExoError, match="no `llava` package is importable"):
        llava_ego2exo.register()


class TestThirdParties:
    @pytest.fixture(autouse=True)
    def clean(self):
        yield
        for names in (PROJECTORS, TRAINERS):
            if "mine" in names:
                names.remove("mine")

    def test_a_projector_with_and_without_ego_tokens(self):
        llava_ego2exo.register_projector("mine", lambda c, **_: nn.Linear(c.mm_hidden_size, c.hidden_size, bias=False))
        llava_ego2exo.register()
        plain = build(ego=False, mm_projector_type="mine").get_model().mm_projector
        assert type(plain) is nn.Linear and plain.bias is None and plain.weight.shape == (64, 32)
        for written in ("mine", "ego2exo_mine"):
            model = build(mm_projector_type=written)
            assert model.config.mm_projector_type == "ego2exo_mine" and branch_of(model).projector.bias is None
        check_rows(model, Batch("..V..", "V.I."))
        from llava.model import llava_arch

        again = llava_arch.build_vision_projector(model.config)
        again.load_state_dict(model.get_model().mm_projector.state_dict())
        PROJECTORS.remove("mine")
        with pytest.raises(ValueError, match="Unknown projector type: mine"):
            build(ego=False, mm_projector_type="mine")
        with pytest.raises(Ego2ExoError, match="'mine'.*ego2exo_mlp"):
            check_type("mine", original_projector_builder())  # before anything loads

    def test_a_trainer(self, train, tmp_path):
        steps = []

        def make(llava_trainer):
            class Mine(llava_trainer):
                def training_step(self, *args, **kwargs):
                    steps.append(1)
                    return super().training_step(*args, **kwargs)

            return Mine

        llava_ego2exo.register_trainer("mine", make)
        llava_ego2exo.register()  # the autouse fixture may have taken the `train` fixture's registration away
        trainer = train(tmp_path / "out", trainer_type="mine", max_steps=2)
        assert type(trainer).__name__ == "Mine" and len(steps) == 2
        with pytest.raises(Ego2ExoError, match="--trainer_type 'nonsense' is not a registered trainer.*ego2exo"):
            train(tmp_path / "out", trainer_type="nonsense")


def test_registry_errors():
    things = Registry("thing", "--thing")
    for _ in range(2):
        things.add("a", print)
    for name, builder in (("a", repr), (" a", print), ("b", 3)):
        with pytest.raises(Ego2ExoError, match="thing "):
            things.add(name, builder)
    assert list(things) == ["a"] and things.get("a") is print
    with pytest.raises(Ego2ExoError, match="--thing 'b'"):
        things.get("b")


def test_substituted_attributes_are_put_back():
    class Base:
        value = 1

    class Child(Base):
        pass

    with pytest.raises(ZeroDivisionError), substituted(Child, value=9, other=8):
        assert (Child.value, Child.other) == (9, 8)
        _ = 1 / 0
    assert Child.value == 1 and "value" not in vars(Child) and not hasattr(Child, "other")


def test_a_model_built_before_register_gets_no_tokens_it_has_no_weights_for():
    plain = build(ego=False)
    batch = Batch("..V..")
    llava_ego2exo.register()
    with torch.no_grad():
        assert torch.isfinite(plain(**batch.call()).loss)
    assert not hasattr(plain.get_model().mm_projector, "ego_tokens")
