"""Registering and unregistering under faults: cut short, from several threads, around imports and reloads."""

import importlib
import subprocess
import sys
import threading
import types

import pytest

import llava_ego2exo
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host import registration, seams
from llava_ego2exo.host.patchboard import Patchboard

from .test_seams import FLAVOUR, OURS, python, same, snapshot, unregistered  # noqa: F401  (a fixture)

MODULES = sorted({seam.module for seam in OURS})


@pytest.mark.fault
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["replace", "_put"])
def test_an_exception_at_each_seam(where, error, monkeypatch, fault_table):
    """At each replacement in turn: nothing stays replaced, and register() works again."""
    owner = {"replace": registration.Registration, "_put": Patchboard}[where]
    before, original, fine = snapshot(), getattr(owner, where), 0
    count = [0]

    def failing(at):
        def call(*args):
            original(*args)
            count[0] += 1
            if count[0] == at:
                raise error(f"position {at}")

        return call

    monkeypatch.setattr(owner, where, failing(-1))
    llava_ego2exo.register()
    llava_ego2exo.unregister()
    total = count[0]
    assert total >= len([seam for seam in OURS if seam.target])
    for at in range(1, total + 1):
        count[0] = 0
        monkeypatch.setattr(owner, where, failing(at))
        with pytest.raises(error, match=f"position {at}$"):
            llava_ego2exo.register()
        fine += same(before, snapshot())
    monkeypatch.setattr(owner, where, original)
    llava_ego2exo.register()
    llava_ego2exo.unregister()
    assert same(before, snapshot())
    if error is RuntimeError:
        fault_table(f"register() that fails at each of its replacements ({where})", total, fine)


@pytest.mark.fault
def test_threads_that_register_and_unregister_at_once(fault_table):
    before, rounds, fine = snapshot(), 40, 0
    llava_ego2exo.register()
    hooked = snapshot()
    names = [key for key in before if isinstance(key, tuple) and not same({0: before[key]}, {0: hooked[key]})]
    llava_ego2exo.unregister()
    kept = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for turn in range(rounds):
            barrier, errors = threading.Barrier(4), []

            def run(call, barrier=barrier, errors=errors):
                barrier.wait()
                try:
                    call()
                except BaseException as error:
                    errors.append(error)

            calls = [llava_ego2exo.register] * 4 if turn % 2 else [llava_ego2exo.register, llava_ego2exo.unregister] * 2
            threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            now, finders = snapshot(), [f for f in sys.meta_path if type(f).__name__ == "AfterImport"]
            hooks = {not same({0: before[key]}, {0: now[key]}) for key in names}
            whole = hooks == {bool(finders)} and len(finders) <= 1
            whole = whole and not errors and not any(thread.is_alive() for thread in threads)
            llava_ego2exo.unregister()
            fine += whole and (turn % 2 == 0 or bool(finders)) and same(before, snapshot())
    finally:
        sys.setswitchinterval(kept)
    fault_table("register() and unregister() from four threads at once", rounds, fine)


RELOADS = """import importlib, inspect, sys
import llava_ego2exo
from llava_ego2exo.host import registration, seams
from llava_ego2exo.host.patchboard import resolve
names = {names!r}
flavour = {flavour!r}
targets = dict.fromkeys((s.module, s.target) for s in seams.SEAMS if s.target and flavour in s.flavours)
def look(name):
    module = importlib.import_module(name)
    return {{t: resolve(module, t) for m, t in targets if m == name}}
def entry(place):
    return vars(place[0]).get(place[1])
def depth(place):
    value, layers = inspect.getattr_static(*place), 0
    while hasattr(value := getattr(value, "__func__", value), "__wrapped__"):
        value, layers = value.__wrapped__, layers + 1
    return layers
places = {{name: look(name) for name in names}}
plain = {{name: {{t: (entry(p), depth(p)) for t, p in look(name).items()}} for name in names}}
fine = 0
for name in names:
    llava_ego2exo.register()
    hooked = {{t: depth(p) for t, p in look(name).items()}}
    kept = {{t: entry(p) for t, p in places[name].items()}}
    importlib.reload(sys.modules[name])
    llava_ego2exo.register()
    right = {{t: depth(p) for t, p in look(name).items()}} == hooked
    llava_ego2exo.unregister()
    right = right and {{t: depth(p) for t, p in look(name).items()}} == {{t: d for t, (_, d) in plain[name].items()}}
    for target, (owner, attribute) in places[name].items():
        if isinstance(owner, type):
            right = right and vars(owner).get(attribute) is plain[name][target][0]
    print("" if right else f"{{name}} is not as it was", file=sys.stderr)
    fine += right
print(fine)"""


@pytest.mark.slow
@pytest.mark.fault
def test_modules_of_llava_reloaded_while_registered(fault_table):
    """Hooked again and once only; then the new objects and the classes of before are given back."""
    code = RELOADS.format(names=MODULES, flavour=FLAVOUR)
    fault_table("modules of LLaVA reloaded while registered", len(MODULES), int(python(code).splitlines()[-1]))


def test_names_of_its_own_that_a_reload_made_are_kept():
    """Undoing puts the reloaded module's functions back, not those of before the reload."""
    name = "llava.model.builder"
    module = importlib.import_module(name)
    kept = dict(vars(module))
    try:
        llava_ego2exo.register()
        importlib.reload(module)
        assert module.load_pretrained_model.__wrapped__ is not kept["load_pretrained_model"]
        theirs = module.load_pretrained_model.__wrapped__
        llava_ego2exo.unregister()
        assert module.load_pretrained_model is theirs and "__wrapped__" not in vars(theirs)
    finally:
        vars(module).update(kept)


def test_a_name_that_another_module_of_llava_took(monkeypatch):
    builder = importlib.import_module("llava.model.builder")
    before = builder.load_pretrained_model
    taker = types.ModuleType("llava.made_up")
    monkeypatch.setitem(sys.modules, "llava.made_up", taker)
    llava_ego2exo.register()
    exec("from llava.model.builder import load_pretrained_model", vars(taker))
    assert taker.load_pretrained_model is not before
    llava_ego2exo.unregister()
    assert taker.load_pretrained_model is builder.load_pretrained_model is before


def test_what_another_has_put_over_ours_is_not_undone_silently(monkeypatch):
    clean, builder = snapshot(), importlib.import_module("llava.model.builder")
    llava_ego2exo.register()
    ours = builder.load_pretrained_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "load_pretrained_model", lambda *args, **kwargs: ours(*args, **kwargs))
        during = snapshot()
        with pytest.raises(Ego2ExoError, match="cannot unregister.*llava.model.builder.load_pretrained_model"):
            llava_ego2exo.unregister()
        assert same(during, snapshot())
    llava_ego2exo.unregister()
    assert same(clean, snapshot())


@pytest.mark.fault
def test_our_own_modules_reloaded_or_imported_anew(fault_table):
    """Every module of ours that a reload can run, one after the other, while registered; then a second copy."""
    code = """import importlib, sys
import llava.model.builder, llava.train.train
import llava_ego2exo
def state():
    return {(s.module, s.target): vars(resolve(sys.modules[s.module], s.target)[0]).get(resolve(sys.modules[s.module],
            s.target)[1]) for s in seams.SEAMS if s.target and s.module in sys.modules}
from llava_ego2exo.host import seams
from llava_ego2exo.host.patchboard import resolve
llava_ego2exo.register()  # imports what LLaVA itself leaves out
llava_ego2exo.unregister()
before = state()
def same(first, second):
    return first.keys() == second.keys() and all(first[k] is second[k] for k in first)
fine = 0
for name in ("llava_ego2exo", "llava_ego2exo.registry", "llava_ego2exo.host.seams", "llava_ego2exo.host.registration",
             "llava_ego2exo.host.importing", "llava_ego2exo.host.patchboard"):
    llava_ego2exo.register()
    hooked = state()
    importlib.reload(sys.modules[name])
    kept = same(hooked, state())
    llava_ego2exo.register()
    finders = [f for f in sys.meta_path if type(f).__name__ == "AfterImport"]
    llava_ego2exo.unregister()
    fine += kept and len(finders) == 1 and same(before, state())
llava_ego2exo.register()
for name in [n for n in sys.modules if n.split(".")[0] == "llava_ego2exo"]:
    del sys.modules[name]
import llava_ego2exo
llava_ego2exo.register()
finders = [f for f in sys.meta_path if type(f).__name__ == "AfterImport"]
llava_ego2exo.unregister()
print(fine, len(finders), same(before, state()))"""
    fine, finders, clean = python(code).splitlines()[-1].split()
    assert (finders, clean) == ("1", "True")
    fault_table("our own modules reloaded while registered, or imported anew", 7, int(fine) + 1)


ORDERS = {
    "after": "import llava_ego2exo\nllava_ego2exo.register()\nimport llava.model.builder, llava.train.train",
    "before": "import llava.model.builder, llava.train.train\nimport llava_ego2exo\nllava_ego2exo.register()",
    "between": "import llava.model.llava_arch\nimport llava_ego2exo\nllava_ego2exo.register()\n"
    "import llava.train.train, llava.model.builder",
    "threads": """import threading, sys, time
import llava, llava_ego2exo
sys.setswitchinterval(1e-5)
names = "llava.train.train", "llava.model.builder"
threads = [threading.Thread(target=__import__, args=(name,)) for name in names]
for thread in threads: thread.start()
llava_ego2exo.register()
for thread in threads: thread.join()
import llava.train.train, llava.model.builder""",
}


@pytest.mark.slow
@pytest.mark.fault
def test_llava_imported_before_after_and_meanwhile(fault_table):
    """Every seam is entered once, whatever the order, and all are given back."""
    check = """
from llava_ego2exo.host.registration import standing
found = standing()
print(sorted(found.entered) == sorted(found.groups), len(found.board._changes), end=" ")
llava_ego2exo.unregister()
import llava.model.builder as b, llava.train.train as t
print(*("__wrapped__" in vars(value) for value in (b.load_pretrained_model, t.train, t.LLaVATrainer)))"""
    pending = {
        name: subprocess.Popen([sys.executable, "-W", "ignore", "-c", code + check], stdout=subprocess.PIPE, text=True)
        for name, code in ORDERS.items()
    }
    lines = {name: process.communicate(timeout=120)[0].splitlines()[-1] for name, process in pending.items()}
    expected = lines["before"]
    assert expected.startswith("True ") and expected.endswith(" False False False")
    fault_table(
        "llava imported before, after, between and while registering", 4, sum(x == expected for x in lines.values())
    )


@pytest.mark.fault
def test_registering_inside_the_import_of_a_seams_module(fault_table):
    """A llava whose builder itself calls us in its first line: refused by name, nothing stays replaced."""
    code = """import importlib.util, sys
import llava, llava_ego2exo
spec = importlib.util.find_spec("llava.model.builder")
source = spec.loader.get_source("llava.model.builder")
module = importlib.util.module_from_spec(spec)
sys.modules["llava.model.builder"] = module
spec._initializing = True
try:
    exec("import llava_ego2exo; llava_ego2exo.register()\\n" + source, vars(module))
except llava_ego2exo.Ego2ExoError as error:
    print(error)
del sys.modules["llava.model.builder"]
import llava.model.llava_arch as arch
print("__wrapped__" in vars(arch.build_vision_projector), [f for f in sys.meta_path if "llava" in type(f).__module__])
llava_ego2exo.register()
import llava.model.builder
print("__wrapped__" in vars(llava.model.builder.load_pretrained_model))"""
    told, clean, again = python(code).splitlines()[-3:]
    named = "llava.model.builder was being imported" in told or "while llava.model.builder" in told
    fault_table(
        "register() called by a module that it hooks into", 1, named and clean == "False []" and again == "True"
    )


def test_an_import_that_fails_midway_is_hooked_when_it_is_tried_again(monkeypatch):
    name = "llava.model.builder"
    module = sys.modules.pop(name, None)
    try:
        llava_ego2exo.register()
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "transformers", None)
            with pytest.raises(ImportError):
                importlib.import_module(name)
        again = importlib.import_module(name)
        assert "__wrapped__" in vars(again.load_pretrained_model)
        assert "exec_module" not in vars(again.__spec__.loader)
        llava_ego2exo.unregister()
        assert "__wrapped__" not in vars(again.load_pretrained_model)
    finally:
        if module is not None:
            sys.modules[name] = sys.modules["llava.model"].builder = module


def test_mends_that_are_asked_for_before_a_patched_llava_is_imported(monkeypatch):
    """Its entry point registers while `register(mends=...)` imports it: with these mends, not with all."""
    asked = []
    original = importlib.import_module

    def patched(name, *rest):
        if name == "llava":
            sys.modules["llava"] = kept  # as it stands there while its own code runs
            seams.register()
            asked.append(registration.standing().mends)
        return original(name, *rest)

    kept = original("llava")
    monkeypatch.setattr(importlib, "import_module", patched)
    monkeypatch.setattr(seams, "detect", lambda: FLAVOUR)
    monkeypatch.delitem(sys.modules, "llava", raising=False)
    try:
        llava_ego2exo.register(mends="all,-resume")
    finally:
        sys.modules["llava"] = kept
    assert asked and "resume" not in asked[0] and registration.standing().mends == asked[0]
