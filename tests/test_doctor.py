"""The doctor: says what is there, never fails on what is not, and 1 only for what stops training or loading."""

import json
import subprocess
import sys
import types
from importlib import metadata

import pytest

from llava_ego2exo import Ego2ExoError, doctor, patching

MODULES = [library.name.replace("-", "_") for library in doctor.LIBRARIES]
WELL = {library.name: (library.tested or ("2.5.0",))[0] for library in doctor.LIBRARIES}
FIXES = {"both-broken": ("next", "pypi"), "next-broken": ("next",), "pypi-broken": ("pypi",)}


@pytest.fixture
def seams(monkeypatch):
    """A stand-in for the table of seams: three fixes, one of them off, and a hook."""
    rows = [types.SimpleNamespace(key=k, kind="fix", flavours=f, why=f"{k}.", remove_when="") for k, f in FIXES.items()]
    rows.append(types.SimpleNamespace(key="flags", kind="hook", flavours=("next", "pypi"), why="", remove_when=""))
    module = types.ModuleType("llava_ego2exo.host.seams")
    module.SEAMS, module.enabled_fixes = tuple(rows), lambda: frozenset({"both-broken", "pypi-broken"})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


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
    """A table of installed versions to edit; None is missing."""
    table = dict(WELL)
    monkeypatch.setattr(doctor, "_installed", lambda name: (table[name], ""))
    return table


def row(report, name):
    return next(row for row in report["versions"] if row["name"] == name)


@pytest.mark.parametrize(("flavour", "label"), [("next", "LLaVA-NeXT"), ("pypi", "llava-torch")])
def test_a_tested_set_has_no_problem(make_llava, seams, versions, monkeypatch, flavour, label):
    root = make_llava(flavour)
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.11.9")
    report = doctor.examine()
    assert report["problems"] == []
    assert report["host"]["name"] == f"{label} (version unknown)"
    assert report["host"]["path"] == str(root / "llava")
    assert report["host"]["patch"] == "unpatched"
    assert any("run `llava-ego2exo patch apply`" in text for text in report["warnings"])
    assert {row["verdict"] for row in report["versions"] if row["name"] != "flash-attn"} == {"tested"}


def test_faults_are_those_of_the_flavour(make_llava, seams, versions):
    make_llava("next")
    faults = {fault["key"]: fault["fixed"] for fault in doctor.examine()["faults"]}
    assert faults == {"both-broken": True, "next-broken": False}


def test_a_wrong_choice_of_fixes_is_a_problem(make_llava, seams, versions):
    def fail():
        raise Ego2ExoError("LLAVA_EGO2EXO_FIXES=nonsense")

    make_llava("next")
    seams.enabled_fixes = fail
    report = doctor.examine()
    assert report["problems"] == ["LLAVA_EGO2EXO_FIXES=nonsense."]
    assert report["faults"] is None


def test_seams_that_cannot_be_imported_are_a_warning(make_llava, versions, monkeypatch):
    make_llava("next")
    monkeypatch.setitem(sys.modules, "llava_ego2exo.host.seams", None)
    report = doctor.examine()
    assert report["problems"] == []
    assert any("upstream faults are not listed" in text for text in report["warnings"])
    assert "  unknown" in doctor._text(report)


def test_patched_and_installed_plugins(make_llava, seams, versions, monkeypatch):
    root = make_llava("next")
    patching.apply(root)
    points = []
    monkeypatch.setattr(doctor.metadata, "entry_points", lambda group: points)
    report = doctor.examine()
    assert report["host"]["patch"] == "patched"
    assert any("llava-ego2exo is not installed" in text for text in report["warnings"])
    points.append(types.SimpleNamespace(name="ego2exo"))
    report = doctor.examine()
    assert report["host"]["plugins"] == ["ego2exo"]
    assert report["warnings"] == []


@pytest.mark.parametrize("flavour", ["next", "pypi"])
def test_an_edited_llava_is_a_problem(make_llava, seams, versions, flavour):
    make_llava(flavour, init="import mine\n")
    report = doctor.examine()
    assert len(report["problems"]) == 1
    assert "__init__.py is not recognised" in report["problems"][0]
    assert "not recognised" in doctor._text(report)


def test_another_package_named_llava_is_a_problem(tmp_path, seams, versions, monkeypatch):
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava/__init__.py").touch()
    monkeypatch.delitem(sys.modules, "llava", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "is not LLaVA" in doctor.examine()["problems"][0]


def test_version_comes_from_the_metadata_beside_the_package(make_llava, seams, versions):
    root = make_llava("pypi")
    info = root / "llava_torch-1.2.2.post1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llava-torch\nVersion: 1.2.2.post1\n")
    assert doctor.examine()["host"]["name"] == "llava-torch 1.2.2.post1"


def test_version_and_commit_of_a_checkout(make_llava, seams, versions):
    root = make_llava("next")
    (root / "pyproject.toml").write_text('[project]\nname = "llava"\nversion = "1.7.0.dev0"\n')
    try:
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], cwd=root, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git cannot commit here")
    host = doctor.examine()["host"]
    assert host["name"] == "LLaVA-NeXT 1.7.0.dev0"
    assert len(host["commit"]) == 40


@pytest.mark.parametrize("case", ["no .git", "broken .git", "no git command"])
def test_an_unknown_commit(make_llava, seams, versions, monkeypatch, case):
    root = make_llava("next")
    if case != "no .git":
        (root / ".git").mkdir()
    if case == "no git command":
        monkeypatch.setenv("PATH", "")
    assert doctor.examine()["host"]["commit"] is None


@pytest.mark.parametrize(
    ("flavour", "version", "verdict", "problem"),
    [
        ("next", "4.37.2", "too old", "no AcceleratorConfig yet"),
        ("next", "4.38.2", "too old", "too old: 4.40 or later"),
        ("next", "4.40.0.dev0", "untested", None),
        ("next", "4.40.2", "tested", None),
        ("next", "4.45.2+local", "tested", None),
        ("next", "4.46.3", "untested", None),
        ("next", "4.47.0", "untested", None),
        ("next", "4.47.1", "untested", "no GradientAccumulationPlugin"),
        ("next", "5.1.0", "untested", "no GradientAccumulationPlugin"),
        ("next", "unknown", "untested", None),
        ("pypi", "4.36.2", "too old", "too old: 4.37 or later"),
        ("pypi", "4.37.2", "untested", None),
        ("pypi", "4.48.0", "untested", None),
    ],
)
def test_transformers_range(make_llava, seams, versions, flavour, version, verdict, problem):
    make_llava(flavour)
    versions["transformers"] = version
    report = doctor.examine()
    assert row(report, "transformers")["verdict"] == verdict
    assert bool(report["problems"]) == bool(problem)
    assert not problem or any(problem in text for text in report["problems"])


@pytest.mark.parametrize(
    ("flavour", "name", "version", "warning"),
    [
        ("next", "peft", "0.4.0", "peft 0.4.0 is too old: 0.10 or later"),
    ],
)
def test_what_only_warns(make_llava, seams, versions, flavour, name, version, warning):
    make_llava(flavour)
    versions[name] = version
    report = doctor.examine()
    assert report["problems"] == []
    assert any(warning in text for text in report["warnings"])


@pytest.mark.parametrize("name", [library.name for library in doctor.LIBRARIES])
@pytest.mark.parametrize("flavour", ["next", "pypi"])
def test_missing_is_a_problem_where_it_is_needed(make_llava, seams, versions, flavour, name):
    make_llava(flavour)
    versions[name] = None
    report = doctor.examine()
    needed = name in ("torch", "transformers", "accelerate", "einops", "wrapt", *["deepspeed"] * (flavour == "next"))
    assert row(report, name)["verdict"] == "missing"
    assert row(report, name)["needed"] is needed
    assert any(f"{name} is missing" in text for text in report["problems"]) is needed
    assert f"missing ({'needed' if needed else 'only used'} for" in doctor._text(report)


@pytest.mark.parametrize(("found", "verdict"), [("3.9.1", "too old"), ("3.11.2", "tested"), ("3.12.0", "untested")])
def test_python(make_llava, seams, versions, monkeypatch, found, verdict):
    make_llava("next")
    monkeypatch.setattr(doctor.platform, "python_version", lambda: found)
    report = doctor.examine()
    assert row(report, "python")["verdict"] == verdict
    assert any("python 3.9.1 is too old" in text for text in report["problems"]) is (verdict == "too old")


@pytest.mark.parametrize("hidden", [*MODULES, "llava", "all"])
def test_hidden_modules_never_crash_it(monkeypatch, capsys, hidden):
    for name in [*MODULES, "llava", "llava_ego2exo.host.seams"] if hidden == "all" else [hidden]:
        monkeypatch.setitem(sys.modules, name, None)
    code = doctor.run()
    text = capsys.readouterr().out
    assert "GPU " in text
    if hidden in ("all", "llava", "torch", "transformers"):
        assert code == 1
        assert "problem: " in text


def test_a_stand_in_module_without_a_spec_counts_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", types.ModuleType("peft"))
    monkeypatch.setitem(sys.modules, "llava", types.ModuleType("llava"))
    report = doctor.examine()
    assert row(report, "peft")["verdict"] == "missing"
    assert report["host"]["flavour"] is None


def test_a_library_without_metadata_has_an_unknown_version(tmp_path, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    (tmp_path / "decord").mkdir()
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor.metadata, "version", absent)
    assert doctor._installed("decord") == ("unknown", "")


def test_a_flash_attn_that_cannot_be_imported_is_a_problem(tmp_path, make_llava, seams, monkeypatch):
    make_llava("next")
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol')\n")
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


def test_hardware_that_cannot_be_asked(monkeypatch):
    def fail(*_):
        raise OSError

    monkeypatch.setattr(doctor.os, "sysconf", fail)
    monkeypatch.setattr(doctor.shutil, "disk_usage", fail)
    hardware = doctor._hardware()
    assert (hardware["memory_gib"], hardware["free_disk_gib"]) == (None, None)
    assert doctor._gib(None) == "unknown"


def test_text_names_everything(make_llava, seams, versions, capsys):
    make_llava("pypi")
    assert doctor.run() == 0
    text = capsys.readouterr().out
    for expected in ("llava-torch", "unpatched", "both-broken: both-broken.", "nothing found that stops"):
        assert expected in text
    assert "  fixed       pypi-broken" in text


def test_json_is_one_object(make_llava, seams, versions, capsys):
    make_llava("next")
    versions["torch"] = None
    assert doctor.run(as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == ["torch is missing; it is needed for everything"]


def test_llava_is_not_imported():
    code = "import sys; from llava_ego2exo import doctor; doctor.examine(); print('llava' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
