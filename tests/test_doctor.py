"""The doctor: reports what is there, never fails on what is missing, and returns 1 only for what stops a run."""

import json
import subprocess
import sys
import types

import pytest

from llava_ego2exo import doctor, patching

MODULES = ["PIL", *(library.name.replace("-", "_") for library in doctor.LIBRARIES)]
NEEDED = {"torch", "transformers", "accelerate", "einops", "pillow", "wrapt"}


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


def verdict_on(report, name):
    return next(row["verdict"] for row in report["versions"] if row["name"] == name)


def test_a_tested_set_has_no_problem(make_llava, versions, capsys):
    root = make_llava("pypi")
    assert doctor.run() == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in versions)  # a name is never run together with its version
    report = doctor.examine()
    assert report["problems"] == [] and any("llava-ego2exo patch apply" in text for text in report["warnings"])
    assert (report["host"]["flavour"], report["host"]["path"]) == ("pypi", str(root / "llava"))
    assert {row["verdict"] for row in report["versions"] if row["name"] != "flash-attn"} == {"tested"}
    assert report["faults"] and all(fault["fixed"] and fault["why"] for fault in report["faults"])


def test_an_unknown_choice_of_fixes_is_a_problem(make_llava, versions, monkeypatch):
    make_llava("next")
    monkeypatch.setenv("LLAVA_EGO2EXO_FIXES", "nonsense")
    report = doctor.examine()
    assert len(report["problems"]) == 1 and "nonsense" in report["problems"][0] and report["faults"] is None


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
    assert "__init__.py is not recognised" in doctor.examine()["problems"][0]
    (root / "llava/model/llava_arch.py").unlink()
    assert "is not LLaVA" in doctor.examine()["problems"][0]


def test_version_and_commit_of_a_checkout(make_llava, versions):
    root = make_llava("next")
    (root / "pyproject.toml").write_text('[project]\nname = "llava"\nversion = "1.7.0.dev0"\n')
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    host = doctor.examine()["host"]
    assert host["name"] == "LLaVA-NeXT 1.7.0.dev0" and len(host["commit"]) == 40


@pytest.mark.parametrize(
    ("flavour", "name", "version", "verdict", "problem", "warning"),
    [
        ("next", "transformers", "4.37.2", "too old", "4.40 or later", ""),
        ("next", "transformers", "4.40.0.dev0", "untested", "", ""),
        ("next", "transformers", "4.45.2+local", "tested", "", ""),
        ("next", "transformers", "4.47.1", "untested", "no GradientAccumulationPlugin", ""),
        ("pypi", "transformers", "4.37.2", "untested", "", ""),
        ("next", "peft", "0.4.0", "too old", "", "0.10 or later"),
        ("next", "av", "unknown", "untested", "", ""),
    ],
)
def test_verdicts(make_llava, versions, flavour, name, version, verdict, problem, warning):
    make_llava(flavour)
    versions[name] = version
    report = doctor.examine()
    assert verdict_on(report, name) == verdict and bool(report["problems"]) == bool(problem)
    assert problem in "".join(report["problems"]) and warning in "".join(report["warnings"])


@pytest.mark.parametrize("flavour", ["next", "pypi"])
def test_missing_is_a_problem_where_it_is_needed(make_llava, versions, flavour, capsys):
    make_llava(flavour)
    versions.update(dict.fromkeys(versions))
    assert doctor.run(as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    needed = NEEDED | ({"deepspeed"} if flavour == "next" else set())
    assert {text.partition(" ")[0] for text in report["problems"]} == needed


def test_nothing_installed_never_crashes_it(monkeypatch, capsys):
    for name in [*MODULES, "llava"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert doctor.run() == 1
    text = capsys.readouterr().out
    assert "no CUDA device" in text and "problem: " in text


def test_a_flash_attn_that_cannot_be_imported_is_a_problem(make_llava, monkeypatch):
    (make_llava("next") / "flash_attn.py").write_text("raise ImportError('undefined symbol')\n")
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    report = doctor.examine()
    assert verdict_on(report, "flash-attn") == "broken" and "undefined symbol" in "".join(report["problems"])


def test_llava_is_not_imported():
    code = "import sys; from llava_ego2exo import doctor; doctor.examine(); print('llava' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
