"""register() and unregister(): all or nothing, exactly as before afterwards, whenever llava is imported."""

import importlib
import sys

import pytest

import llava_ego2exo
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.hooks import install
from llava_ego2exo.host.hooks.install import AttributePatcher, Installation

from .test_table import OURS, UNNEEDED, changed, python, snapshot, unregistered  # noqa: F401  (a fixture)

CHECK = """
from llava_ego2exo.host.hooks import install
found = install._installation
print(len(found.patcher.changes), end=" ")
llava_ego2exo.unregister()
import llava.model.builder as b, llava.train.train as t
print(*("__wrapped__" in vars(value) for value in (b.load_pretrained_model, t.train, t.LLaVATrainer)))"""


def test_everything_is_replaced_once_and_put_back():
    before = snapshot()
    llava_ego2exo.unregister()  # without a register(): nothing
    for _ in range(2):
        llava_ego2exo.register()
        during = snapshot()
        assert changed(before, during) >= {(s.module, s.target) for s in OURS if s.target and s.target not in UNNEEDED}
        llava_ego2exo.register()
        llava_ego2exo.register(fixes="all")
        with pytest.raises(Ego2ExoError, match="fixes='none'"):
            llava_ego2exo.register(fixes="none")
        assert not changed(during, snapshot())
        llava_ego2exo.unregister()
        assert not changed(before, snapshot())


def test_an_exception_at_any_replacement_puts_everything_back(monkeypatch):
    before, put, places = snapshot(), AttributePatcher.put, []

    def failing(at):
        def call(patcher, owner, name, value):
            put(patcher, owner, name, value)
            places.append(name)
            if len(places) == at:
                raise KeyboardInterrupt

        return call

    monkeypatch.setattr(AttributePatcher, "put", failing(0))
    llava_ego2exo.register()
    llava_ego2exo.unregister()
    total = len(places)
    assert total >= len([seam for seam in OURS if seam.target])
    for at in (1, total):
        places.clear()
        monkeypatch.setattr(AttributePatcher, "put", failing(at))
        with pytest.raises(KeyboardInterrupt):
            llava_ego2exo.register()
        assert not changed(before, snapshot())


def test_what_other_code_has_put_over_ours_is_not_undone_silently(monkeypatch):
    builder = importlib.import_module("llava.model.builder")
    llava_ego2exo.register()
    with monkeypatch.context() as patch:
        patch.setattr(builder, "load_pretrained_model", lambda *args, **kwargs: None)
        during = snapshot()
        with pytest.raises(Ego2ExoError, match="llava.model.builder.load_pretrained_model"):
            llava_ego2exo.unregister()
        assert not changed(during, snapshot())


def test_a_surprise_in_a_module_imported_later(monkeypatch):
    """The import fails by the seam's name, and what was hooked before it is put back."""
    before, name = snapshot(), "llava.model.builder"
    builder = sys.modules.pop(name)
    try:
        llava_ego2exo.register()
        loader = next(seam for seam in OURS if seam.key == "loader")
        worse = type(loader)(**{**vars(loader), "params": ("nonsense",)})
        monkeypatch.setitem(install._installation.seams, name, [worse])
        with pytest.raises(Ego2ExoError, match="seam loader: .*nonsense"):
            importlib.import_module(name)
    finally:
        sys.modules[name] = sys.modules["llava.model"].builder = builder
    assert install._installation is None and not changed(before, snapshot())


def test_a_patched_llava_registers_while_register_imports_it(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: llava_ego2exo.register())
    monkeypatch.setattr(Installation, "start", lambda self: None)
    llava_ego2exo.register(fixes="all,-resume")
    assert "resume" not in install._installation.fixes


@pytest.mark.slow
def test_llava_imported_partly_before_and_partly_after():
    """Every seam is entered once, and all are given back; the plugin imports no more than needed."""
    code = """import sys
before = list(sys.meta_path)
import llava_ego2exo, llava_ego2exo.config, llava_ego2exo.registry
llava_ego2exo.unregister()
assert not {"torch", "llava", "numpy"} & set(sys.modules) and before == sys.meta_path
import llava.model.llava_arch
llava_ego2exo.register()
assert "llava.train.train" not in sys.modules
import llava.train.train, llava.model.builder
"""
    found = python(code + CHECK).splitlines()[-1]
    importlib.import_module("llava.train.train")
    llava_ego2exo.register()
    assert found == f"{len(install._installation.patcher.changes)} False False False"
