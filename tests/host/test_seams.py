"""Hooking in and out of the host: everything or nothing, and exactly as it was afterwards."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import llava_ego2exo
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host import seams
from llava_ego2exo.host.llava_arch import original_projector_builder
from llava_ego2exo.host.patchboard import Patchboard, resolve, substituted
from llava_ego2exo.host.projector import check_type
from llava_ego2exo.host.registration import standing
from llava_ego2exo.registry import PROJECTORS, TRAINERS, Registry

from .models import Batch, branch_of, build, check_rows, is_next

ROOT = Path(llava_ego2exo.__file__).parent
FLAVOUR = "next" if is_next() else "pypi"
OURS = [seam for seam in seams.SEAMS if FLAVOUR in seam.flavours]
UNNEEDED = ("LLaVATrainer.create_accelerator_and_postprocess",)  # accelerate < 1.0 has no need of this mend
MENDS = sorted({seam.key for seam in OURS if seam.kind == "mend"})


@pytest.fixture(autouse=True)
def unregistered(monkeypatch):
    monkeypatch.delenv(seams.MENDS_VARIABLE, raising=False)
    llava_ego2exo.unregister()
    yield
    llava_ego2exo.unregister()


def snapshot() -> dict:
    """Every object a seam may touch, and where it is defined: by name, owner's own dictionary entry and value."""
    found = {"meta_path": list(sys.meta_path), "trainers": list(TRAINERS), "projectors": list(PROJECTORS)}
    for seam in OURS:
        module = importlib.import_module(seam.module)
        if seam.target:
            owner, name = resolve(module, seam.target)
            found[seam.module, seam.target] = (name in vars(owner), inspect.getattr_static(owner, name))
        else:
            found[seam.module, "names"] = sorted(vars(module))
    return found


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        value[0] == second[key][0] and value[1] is second[key][1] if isinstance(value, tuple) else value == second[key]
        for key, value in first.items()
    )


def test_everything_is_put_back():
    before = snapshot()
    llava_ego2exo.register()
    during = snapshot()
    changed = {key for key in before if not same({key: before[key]}, {key: during[key]})}
    assert changed >= {key for key in before if isinstance(key, tuple) and key[1] not in ("names", *UNNEEDED)}
    assert {"meta_path", "trainers"} <= changed
    llava_ego2exo.unregister()
    assert same(before, snapshot())


def test_a_second_register_changes_nothing():
    llava_ego2exo.register()
    first = snapshot()
    llava_ego2exo.register()
    llava_ego2exo.register(mends="all")
    assert same(first, snapshot())
    with pytest.raises(Ego2ExoError, match="mends='none'.*registered already with the mends accelerator.*unregister"):
        llava_ego2exo.register(mends="none")
    assert same(first, snapshot())


def test_again_and_again():
    before = snapshot()
    for _ in range(3):
        llava_ego2exo.register()
        llava_ego2exo.unregister()
    assert same(before, snapshot())


def test_unregister_without_register():
    before = snapshot()
    llava_ego2exo.unregister()
    assert same(before, snapshot())


def _with_params() -> list:
    first = {}
    for seam in OURS:
        if seam.params and seam.target:
            first.setdefault((seam.module, seam.target), seam)
    return [pytest.param(seam, id=f"{seam.key}-{seam.target}") for seam in first.values()]


@pytest.mark.parametrize("seam", _with_params())
def test_a_changed_signature_is_refused(seam):
    """By the seam's name, and nothing is replaced."""
    owner, name = resolve(importlib.import_module(seam.module), seam.target)
    clean = snapshot()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, lambda another: None)
        before = snapshot()
        with pytest.raises(Ego2ExoError, match=f"seam {seam.key}: .*{name} lacks the parameters") as caught:
            llava_ego2exo.register()
        assert ("switch the mend off" in str(caught.value)) == (seam.kind == "mend")
        assert same(before, snapshot())
        if seam.kind == "mend" and sum(s.target == seam.target for s in OURS) == 1:
            llava_ego2exo.register(mends=f"all,-{seam.key}")
            llava_ego2exo.unregister()
    assert same(clean, snapshot())


@pytest.mark.parametrize("seam", [seam for seam in OURS if seam.kind == "hook"], ids=lambda seam: seam.key)
def test_a_missing_function_is_refused(seam):
    owner, name = resolve(importlib.import_module(seam.module), seam.target)
    clean = snapshot()
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(owner, name)
        with pytest.raises(Ego2ExoError, match=f"seam {seam.key}: .*{name} does not exist"):
            llava_ego2exo.register()
        if isinstance(owner, type):
            patch.delattr(sys.modules[seam.module], owner.__name__)
            with pytest.raises(Ego2ExoError, match=f"no {seam.module}.{seam.target}"):
                llava_ego2exo.register()
    assert same(clean, snapshot())


def test_a_surprise_in_a_module_imported_later():
    """The import fails by name, and what was hooked before it is put back."""
    before = snapshot()
    name = "llava.model.builder"
    builder = sys.modules.pop(name)
    try:
        with pytest.MonkeyPatch.context() as patch:
            llava_ego2exo.register()
            loader = next(seam for seam in OURS if seam.key == "loader")
            worse = seams.Seam(**{**vars(loader), "params": ("nonsense",)})
            patch.setitem(standing().groups, name, [worse])
            with pytest.raises(Ego2ExoError, match="seam loader: .*nonsense"):
                importlib.import_module(name)
            assert standing() is None
    finally:
        sys.modules[name] = builder
        sys.modules["llava.model"].builder = builder
    assert same(before, snapshot())


@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize("key", MENDS)
def test_each_mend_can_be_left_out(key, way, monkeypatch):
    before = snapshot()
    if way == "environment":
        monkeypatch.setenv(seams.MENDS_VARIABLE, f"all,-{key}")
        llava_ego2exo.register()
    else:
        llava_ego2exo.register(mends=f"all,-{key}")
    after = snapshot()
    others = {(seam.module, seam.target) for seam in OURS if seam.key != key}
    for seam in OURS:
        place = (seam.module, seam.target)
        if not seam.target:
            untouched = before[seam.module, "names"] == after[seam.module, "names"]
            assert untouched or seam.key != key, place
        elif place not in others:
            assert same({0: before[place]}, {0: after[place]}), place
        elif seam.key != key and seam.target not in UNNEEDED:
            assert not same({0: before[place]}, {0: after[place]}), place


def test_the_argument_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv(seams.MENDS_VARIABLE, "none")
    assert seams.enabled_mends() == frozenset()
    assert seams.enabled_mends("accelerator") == {"accelerator"}
    assert seams.enabled_mends("all") == {seam.key for seam in seams.MENDS}
    assert seams.enabled_mends("none, resume , modalities,-resume") == {"modalities"}


@pytest.mark.parametrize("mends", ["nonsense", "all,-nonsense", "all,,-resume", "RESUME"])
def test_an_unknown_mend(mends, monkeypatch):
    before = snapshot()
    with pytest.raises(Ego2ExoError, match="mends .*siglip-folder"):
        llava_ego2exo.register(mends=mends)
    monkeypatch.setenv(seams.MENDS_VARIABLE, mends)
    with pytest.raises(Ego2ExoError, match="mends .*siglip-folder"):
        llava_ego2exo.register()
    assert same(before, snapshot())


def test_without_mends_ego_tokens_work():
    llava_ego2exo.register(mends="none")
    check_rows(build(), Batch("..V..", ".I.V"))


def test_the_table():
    for seam in seams.SEAMS:
        assert seam.why and seam.remove_when and seam.kind in ("hook", "mend")
        file, function = seam.wrap.split(":")
        assert callable(getattr(importlib.import_module(f"llava_ego2exo.host.{file}"), function))
    assert not {s.key for s in seams.HOOKS} & {s.key for s in seams.MENDS}


def python(code: str, **environment) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_importing_has_no_side_effects():
    code = """import sys
before = list(sys.meta_path)
import llava_ego2exo, llava_ego2exo.config, llava_ego2exo.errors, llava_ego2exo.registry
llava_ego2exo.unregister()
heavy = {"torch", "llava", "transformers", "numpy"} & set(sys.modules)
print(heavy, before == sys.meta_path)"""
    assert python(code) == "set() True"


def test_registering_imports_no_training_package():
    code = """import sys
import llava_ego2exo
llava_ego2exo.register()
print(sorted({"llava.train.train", "llava.model.builder", "deepspeed"} & set(sys.modules)), file=sys.stderr)
import llava.model.builder
print(llava.model.builder.load_pretrained_model.__wrapped__.__module__)
llava_ego2exo.unregister()
print(hasattr(llava.model.builder.load_pretrained_model, "__wrapped__"))"""
    assert python(code).splitlines()[-2:] == ["llava.model.builder", "False"]


def test_without_llava():
    code = """import importlib.util, llava_ego2exo
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "llava" else find_spec(name, *rest)
try:
    llava_ego2exo.register()
except llava_ego2exo.Ego2ExoError as error:
    print(error)
from llava_ego2exo.registry import TRAINERS
print(list(TRAINERS))"""
    out = python(code, PYTHONPATH=str(ROOT.parent))
    assert out.splitlines() == [out.splitlines()[0], "[]"] and "no `llava` package is importable" in out


def imports_of(path: Path) -> set[str]:
    """Absolute names of what a file of the package imports, also inside functions."""
    package = ["llava_ego2exo", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {stem, *(f"{stem}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            found.add(ast.unparse(node.args[0]).strip("f'\""))
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_who_imports_whom(path):
    part = path.relative_to(ROOT).parts[0]
    names = imports_of(path)
    if part != "host":
        foreign = {name for name in names if name.split(".")[0] == "llava"}
        assert not foreign, part
    if part == "method":
        allowed = ("llava_ego2exo.method", "llava_ego2exo.config", "llava_ego2exo.errors")
        assert all(name.startswith(allowed) for name in names if name.startswith("llava_ego2exo"))
        assert not {name for name in names if name.split(".")[0] in ("transformers", "peft")}
    if path.name in ("__init__.py", "config.py", "errors.py", "registry.py") and len(path.relative_to(ROOT).parts) == 1:
        assert "torch" not in names


class TestThirdParties:
    @pytest.fixture(autouse=True)
    def clean(self):
        yield
        for table, name in ((PROJECTORS, "mine"), (TRAINERS, "mine")):
            if name in table:
                table.remove(name)

    @staticmethod
    def add():
        llava_ego2exo.register_projector("mine", lambda c, **_: nn.Linear(c.mm_hidden_size, c.hidden_size, bias=False))

    @pytest.mark.parametrize("early", [True, False])
    def test_a_projector(self, early):
        self.add() if early else llava_ego2exo.register()
        llava_ego2exo.register() if early else self.add()
        plain = build(ego=False, mm_projector_type="mine").get_model().mm_projector
        assert type(plain) is nn.Linear and plain.bias is None and plain.weight.shape == (64, 32)

    @pytest.mark.parametrize("written", ["mine", "ego2exo_mine"])
    def test_a_projector_with_ego_tokens(self, written):
        llava_ego2exo.register()
        self.add()
        model = build(mm_projector_type=written)
        assert model.config.mm_projector_type == "ego2exo_mine"
        assert branch_of(model).projector.bias is None and branch_of(model).projector.weight.shape == (64, 32)
        check_rows(model, Batch("..V..", "V.I."))
        from llava.model import llava_arch

        again = llava_arch.build_vision_projector(model.config)
        again.load_state_dict(model.get_model().mm_projector.state_dict())

    def test_an_unregistered_projector_is_unknown(self):
        llava_ego2exo.register()
        with pytest.raises(ValueError, match="Unknown projector type: mine"):
            build(ego=False, mm_projector_type="mine")
        with pytest.raises(ValueError, match="Unknown projector type: mine"):
            build(mm_projector_type="ego2exo_mine")
        with pytest.raises(Ego2ExoError, match="ego2exo_mine.*not known to LLaVA.*ego2exo_mlp"):
            check_type("mine", original_projector_builder())  # what a training run asks before anything loads

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
        trainer = train(tmp_path / "out", trainer_type="mine", num_train_epochs=1)
        assert type(trainer).__name__ == "Mine" and len(steps) == trainer.state.global_step > 0

    def test_an_unknown_trainer(self, train, tmp_path):
        llava_ego2exo.register()
        with pytest.raises(Ego2ExoError, match="--trainer_type 'nonsense' is not a registered trainer.*ego2exo"):
            train(tmp_path / "out", trainer_type="nonsense")


def test_registry_errors():
    table = Registry("thing", "--thing")
    with pytest.raises(Ego2ExoError, match="--thing 'a' is not a registered thing.*none yet"):
        table.get("a")
    for name in ("", " a", None, 3):
        with pytest.raises(Ego2ExoError, match="thing name"):
            table.add(name, print)
    with pytest.raises(Ego2ExoError, match="builder 3 of thing 'a'.*callable"):
        table.add("a", 3)
    table.add("a", print)
    table.add("a", print)
    with pytest.raises(Ego2ExoError, match="'a' is registered already"):
        table.add("a", repr)
    assert list(table) == ["a"] and "a" in table and table.get("a") is print
    table.remove("a")
    with pytest.raises(Ego2ExoError, match="not a registered thing"):
        table.remove("a")


def test_patchboard_keeps_kinds_of_attributes():
    class Base:
        @classmethod
        def made(cls):
            return cls.__name__

        value = 1

    class Child(Base):
        @staticmethod
        def own():
            return 2

    entry = vars(Child)["own"]
    board = Patchboard()
    board.replace(Child, "made", lambda original: classmethod(lambda cls: "new " + original.__func__(cls)))
    board.replace(Child, "own", lambda original: staticmethod(lambda: original.__func__() + 1))
    board.add(Child, "extra", 5)
    assert (Child.made(), Base.made(), Child().own(), Child.extra) == ("new Child", "Base", 3, 5)
    board.restore()
    assert Child.made() == "Child" and "made" not in vars(Child) and not hasattr(Child, "extra")
    assert vars(Child)["own"] is entry
    board.restore()
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
