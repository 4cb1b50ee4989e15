"""The console script: light, and an `Ego2ExoError` becomes one line and exit code 1."""

import json
import subprocess
import sys
import types

import pytest

import llava_ego2exo
from llava_ego2exo import Ego2ExoError, cli

HEAVY = ("torch", "transformers", "llava", "numpy", "peft", "deepspeed", "av", "decord")
ARGV = ["merge", "adapter", "--base", "base", "--out", "out"]


def loaded_after(code: str) -> set[str]:
    """Names of the modules a fresh interpreter holds after running `code`, itself without its start-up modules."""
    code = f"import sys\nbefore = set(sys.modules)\n{code}\nprint('\\n' + ' '.join(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("argv", [["--help"], ["patch", "status"]])
def test_help_and_patching_load_nothing_heavy(argv):
    code = f"from llava_ego2exo.cli import main\ntry:\n    main({argv})\nexcept SystemExit:\n    pass"
    loaded = loaded_after(code)
    assert "llava_ego2exo.cli" in loaded and not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_importing_the_package_loads_two_modules_of_it():
    loaded = loaded_after("import llava_ego2exo")
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    ours = {name for name in loaded if "ego2exo" in name}
    assert ours == {"llava_ego2exo", "llava_ego2exo.errors", "llava_ego2exo.registry"}


def test_help_and_version(capsys):
    for argv, expected in ((["--help"], "targets"), (["--version"], f"llava-ego2exo {llava_ego2exo.__version__}\n")):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == 0 and expected in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["absent"], ["patch"], ["patch", "break"], ["merge", "adapter"]])
def test_wrong_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2 and "usage: llava-ego2exo" in capsys.readouterr().err


def test_patch_actions(tmp_path, capsys):
    (tmp_path / "llava").mkdir()
    file = (tmp_path / "llava/__init__.py").resolve()
    file.write_text("from .model import LlavaLlamaForCausalLM\n")
    codes = [cli.main(["patch", action, str(tmp_path)]) for action in ("apply", "apply", "status", "revert", "revert")]
    assert codes == [0] * 5
    lines = [line.removesuffix(f": {file}") for line in capsys.readouterr().out.splitlines()]
    assert lines == ["patched", "already patched", "patched", "unpatched", "already unpatched"]


def test_an_error_is_one_line_without_traceback(tmp_path, capsys):
    assert cli.main(["patch", "status", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"llava-ego2exo: error: no llava at {tmp_path}") and err.count("\n") == 1


@pytest.fixture
def merge(monkeypatch):
    """Replaces what `merge` runs by a function."""

    def put(function):
        module = types.ModuleType("llava_ego2exo.host.merge")
        module.merge = function
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return put


def test_merge_passes_its_arguments_on(merge):
    calls = []
    merge(lambda *args, **options: calls.append((args, options)))
    assert cli.main([*ARGV, "--dtype", "bfloat16"]) == 0
    assert calls == [(("adapter", "base", "out"), {"dtype": "bfloat16"})]


def test_errors_of_a_command(merge, capsys):
    def fail(error):
        raise error

    merge(lambda *_, **__: fail(Ego2ExoError("adapter x", "an adapter", "train one")))
    assert cli.main(ARGV) == 1
    assert capsys.readouterr().err == "llava-ego2exo: error: adapter x. Allowed: an adapter. What to do: train one.\n"
    merge(lambda *_, **__: fail(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):  # never hidden
        cli.main(ARGV)


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["torch is missing"], 1)])
def test_doctor_exit_code_and_json(monkeypatch, capsys, problems, code):
    from llava_ego2exo import doctor

    monkeypatch.setattr(doctor, "examine", lambda: {"problems": problems})
    assert cli.main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {"problems": problems}
