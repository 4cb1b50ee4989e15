"""The doctor: reports what is there, never fails on what is missing, and returns 1 only for what stops a run."""

import json
import subprocess
import sys
import types

import pytest

from llava_ego2exo import doctor, patching

MODULES = [library.name.replace("-", "_") for library in doctor.LIBRARIES]
NEEDED = {"torch", "transformers", "accelerate", "einops", "wrapt"}


@pytest.fixture
def make_llava(tmp_path, monkeypatch):
    """Builds a tiny llava of either flavour and makes it the one that Python would import."""

    def make(flavour, init="from .model import LlavaLlamaForCausalLM\n"):
        models = tmp_path / "llava/model/language_model"
        models.mkdir(parents=True)
        (tmp_path / "llava/__init__.py").write_text(init)
        (models.parent / "llava_arch.py").touch()
        if flavour == "next":
            (models / "llava_qwen.py").touch()
        monkeypatch.delitem(sys.modules, "llava", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    return make


@pytest.fixture
def versions(monkeypatch):
    """A table of installed versions to edit, all as tested; None is missing."""
    table = {library.name: (library.tested or ("2.5.0",))[0] for library in doctor.LIBRARIES}
    monkeypatch.setattr(doctor, "_installed", lambda name: ({**table, "python": "3.11.9"}[name], ""))
    return table


def row(report, name):
    return next(row for row in report["versions"] if row["name"] == name)


@pytest.mark.parametrize(("flavour", "label"), [("next", "LLaVA-NeXT"), ("pypi", "llava-torch")])
def test_a_tested_set_has_no_problem(make_llava, versions, flavour, label, capsys):
    root = make_llava(flavour)
    assert doctor.run() == 0
    text = capsys.readouterr().out
    assert "no problems found" in text and "unpatched" in text
    assert all(f"  {name} " in text for name in versions)  # a name is never run together with its version
    report = doctor.examine()
    assert report["problems"] == [] and any("llava-ego2exo patch apply" in text for text in report["warnings"])
    assert (report["host"]["name"], report["host"]["path"]) == (f"{label} (version unknown)", str(root / "llava"))
    assert {row["verdict"] for row in report["versions"] if row["name"] != "flash-attn"} == {"tested"}
    assert report["faults"] and all(fault["fixed"] and fault["why"] for fault in report["faults"])


def test_an_unknown_choice_of_fixes_is_a_problem(make_llava, versions, monkeypatch):
    make_llava("next")
    monkeypatch.setenv("LLAVA_EGO2EXO_FIXES", "nonsense")
    report = doctor.examine()
    assert len(report["problems"]) == 1 and "nonsense" in report["problems"][0] and report["faults"] is None
    assert "  unknown" in doctor._text(report)


def test_patched_and_installed_plugins(make_llava, versions, monkeypatch):
    patching.apply(make_llava("next"))
    points = []
    monkeypatch.setattr(doctor.metadata, "entry_points", lambda group: points)
    report = doctor.examine()
    assert report["host"]["patch"] == "patched"
    assert any("llava-ego2exo is not installed" in text for text in report["warnings"])
    points.append(types.SimpleNamespace(name="ego2exo"))
    report = doctor.examine()
    assert report["host"]["plugins"] == ["ego2exo"] and report["warnings"] == []


def test_an_edited_llava_and_another_package_of_that_name(make_llava, versions):
    root = make_llava("next", init="import mine\n")
    report = doctor.examine()
    assert "__init__.py is not recognised" in report["problems"][0]
    (root / "llava/model/llava_arch.py").unlink()
    assert "is not LLaVA" in doctor.examine()["problems"][0]


def test_version_and_commit_of_a_checkout(make_llava, versions):
    root = make_llava("next")
    (root / "pyproject.toml").write_text('[project]\nname = "llava"\nversion = "1.7.0.dev0"\n')
    (root / ".git").mkdir()
    assert doctor.examine()["host"]["commit"] is None  # no repository
    (root / ".git").rmdir()
    try:
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], cwd=root, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git cannot commit here")
    host = doctor.examine()["host"]
    assert host["name"] == "LLaVA-NeXT 1.7.0.dev0" and len(host["commit"]) == 40
    info = root / "llava-1.8.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llava\nVersion: 1.8\n")
    assert doctor.examine()["host"]["name"] == "LLaVA-NeXT 1.8"


@pytest.mark.parametrize(
    ("flavour", "name", "version", "verdict", "problem", "warning"),
    [
        ("next", "transformers", "4.37.2", "too old", "no AcceleratorConfig yet", None),
        ("next", "transformers", "4.40.0.dev0", "untested", None, None),
        ("next", "transformers", "4.45.2+local", "tested", None, None),
        ("next", "transformers", "4.47.1", "untested", "no GradientAccumulationPlugin", None),
        ("pypi", "transformers", "4.36.2", "too old", "too old: 4.37 or later", None),
        ("pypi", "transformers", "4.48.0", "untested", None, None),
        ("next", "peft", "0.4.0", "too old", None, "too old: 0.10 or later"),
        ("next", "decord", "unknown", "untested", None, None),
    ],
)
def test_verdicts(make_llava, versions, flavour, name, version, verdict, problem, warning):
    make_llava(flavour)
    versions[name] = version
    report = doctor.examine()
    assert row(report, name)["verdict"] == verdict
    assert bool(report["problems"]) == bool(problem)
    assert problem is None or any(problem in text for text in report["problems"])
    assert warning is None or any(warning in text for text in report["warnings"])


@pytest.mark.parametrize("flavour", ["next", "pypi"])
def test_missing_is_a_problem_where_it_is_needed(make_llava, versions, flavour, capsys):
    make_llava(flavour)
    versions.update(dict.fromkeys(versions))
    assert doctor.run(as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    needed = NEEDED | ({"deepspeed"} if flavour == "next" else set())
    assert {text.partition(" ")[0] for text in report["problems"]} == needed
    assert {row["name"] for row in report["versions"] if row["needed"]} == needed | {"python"}


def test_python_that_is_too_old(make_llava, monkeypatch):
    make_llava("next")
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    assert any("python 3.9.1 is too old" in text for text in doctor.examine()["problems"])


def test_nothing_installed_never_crashes_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "peft", types.ModuleType("peft"))  # a stand-in without a spec
    assert row(doctor.examine(), "peft")["verdict"] == "missing"
    for name in [*MODULES, "llava"]:
        monkeypatch.setitem(sys.modules, name, None)
    for module, name in ((doctor.os, "sysconf"), (doctor.shutil, "disk_usage")):
        monkeypatch.setattr(module, name, lambda *_: (_ for _ in ()).throw(OSError()))
    assert doctor.run() == 1
    text = capsys.readouterr().out
    assert "no CUDA device" in text and "free disk      unknown\n" in text and "problem: " in text


def test_a_flash_attn_that_cannot_be_imported_is_a_problem(make_llava, monkeypatch):
    (make_llava("next") / "flash_attn.py").write_text("raise ImportError('undefined symbol')\n")
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    report = doctor.examine()
    assert row(report, "flash-attn")["verdict"] == "broken"
    assert any("flash-attn" in text and "undefined symbol" in text for text in report["problems"])


def test_gpus_and_a_driver_that_fails(monkeypatch):
    card = types.SimpleNamespace(name="Some GPU", total_memory=80 * doctor.GIB)
    cuda = types.SimpleNamespace(device_count=lambda: 1, get_device_properties=lambda index: card)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert doctor._gpus() == [{"name": "Some GPU", "memory_gib": 80.0}]
    cuda.get_device_properties = lambda index: 1 / 0
    assert doctor._gpus() == []


def test_llava_is_not_imported():
    code = "import sys; from llava_ego2exo import doctor; doctor.examine(); print('llava' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
