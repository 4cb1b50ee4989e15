"""The console script: light, and an `Ego2ExoError` becomes one line and exit code 1."""

import json
import subprocess
import sys
import types

import pytest

import llava_ego2exo
from llava_ego2exo import Ego2ExoError, cli

HEAVY = ("torch", "transformers", "llava", "numpy", "peft", "deepspeed")


def loaded_after(code: str) -> list[str]:
    """Names of the modules a fresh interpreter holds after running `code`, itself without its start-up modules."""
    code = f"import sys\nbefore = set(sys.modules)\n{code}\nprint('\\n' + ' '.join(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_help_loads_nothing_heavy():
    code = "from llava_ego2exo.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    loaded = loaded_after(code)
    assert "llava_ego2exo.cli" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    ours = {name.removeprefix("llava_ego2exo") for name in loaded if name.startswith("llava_ego2exo")}
    assert {name for name in ours if not name.startswith(".commands")} == {
        "", ".cli", ".errors", ".registry", ".video", ".video.limits", ".video.pool", ".video.reader",
        ".video.sampling", ".video.worker",
    }  # fmt: skip


def test_importing_the_package_loads_two_modules_of_it():
    loaded = loaded_after("import llava_ego2exo")
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    assert {name for name in loaded if "ego2exo" in name} == {
        "llava_ego2exo",
        "llava_ego2exo.errors",
        "llava_ego2exo.registry",
    }


def test_patching_loads_nothing_heavy(tmp_path):
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava/__init__.py").write_text("from .model import LlavaLlamaForCausalLM\n")
    loaded = loaded_after(f"from llava_ego2exo.cli import main\nmain(['patch', 'apply', {str(tmp_path)!r}])")
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command.__name__.rpartition(".")[2] in text for command in cli.SUBCOMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"llava-ego2exo {llava_ego2exo.__version__}\n"


@pytest.mark.parametrize("argv", [[], ["absent"], ["patch"], ["patch", "break"], ["merge", "adapter"]])
def test_wrong_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    assert "usage: llava-ego2exo" in capsys.readouterr().err


def test_patch_actions(tmp_path, capsys):
    (tmp_path / "llava").mkdir()
    file = (tmp_path / "llava/__init__.py").resolve()
    file.write_text("from .model import LlavaLlamaForCausalLM\n")
    codes = [cli.main(["patch", action, str(tmp_path)]) for action in ("apply", "apply", "status", "revert", "revert")]
    assert codes == [0] * 5
    said = [line.removesuffix(f": {file}") for line in capsys.readouterr().out.splitlines()]
    assert said == ["patched", "already patched", "patched", "unpatched", "already unpatched"]


def test_an_error_is_one_line_without_traceback(tmp_path, capsys):
    assert cli.main(["patch", "status", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"llava-ego2exo: error: no llava at {tmp_path}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_merge_hands_its_arguments_over(monkeypatch, dtype):
    calls = []
    module = types.ModuleType("llava_ego2exo.merge")
    module.merge = lambda *args, **kwargs: calls.append((args, kwargs))
    monkeypatch.setitem(sys.modules, "llava_ego2exo.merge", module)
    options = ["--dtype", dtype] if dtype else []
    assert cli.main(["merge", "adapter", "--base", "base", "--out", "out", *options]) == 0
    assert calls == [(("adapter", "base", "out"), {"dtype": dtype})]


def test_an_error_inside_merge(monkeypatch, capsys):
    def merge(*_, **__):
        raise Ego2ExoError("adapter x", "an adapter", "train one")

    module = types.ModuleType("llava_ego2exo.merge")
    module.merge = merge
    monkeypatch.setitem(sys.modules, "llava_ego2exo.merge", module)
    assert cli.main(["merge", "x", "--base", "b", "--out", "o"]) == 1
    assert capsys.readouterr().err == ("llava-ego2exo: error: adapter x. Allowed: an adapter. What to do: train one.\n")


def test_other_errors_are_not_hidden(monkeypatch):
    def merge(*_, **__):
        raise RuntimeError("a bug")

    module = types.ModuleType("llava_ego2exo.merge")
    module.merge = merge
    monkeypatch.setitem(sys.modules, "llava_ego2exo.merge", module)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["merge", "x", "--base", "b", "--out", "o"])


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["torch is missing"], 1)])
def test_doctor_exit_code_and_json(monkeypatch, capsys, problems, code):
    from llava_ego2exo import doctor

    monkeypatch.setattr(doctor, "examine", lambda: {"problems": problems})
    assert cli.main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {"problems": problems}
