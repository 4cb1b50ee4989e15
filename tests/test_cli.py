"""The console script: light, and an `Ego2ExoError` becomes one line and exit code 1."""

import json
import subprocess
import sys

import pytest

import llava_ego2exo
from llava_ego2exo import cli

HEAVY = ("torch", "transformers", "llava", "numpy", "peft", "deepspeed", "av")
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
    of_package = {name for name in loaded if "ego2exo" in name}
    assert of_package == {"llava_ego2exo", "llava_ego2exo.errors", "llava_ego2exo.registry"}


def test_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"llava-ego2exo {llava_ego2exo.__version__}\n"
    for wrong in ([], ["absent"], ["patch", "break"], ["merge", "adapter"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(wrong)
        assert stop.value.code == 2 and "usage: llava-ego2exo" in capsys.readouterr().err


def test_patch_actions(tmp_path, capsys):
    assert cli.main(["patch", "status", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"llava-ego2exo: error: no llava at {tmp_path}") and err.count("\n") == 1
    (tmp_path / "llava").mkdir()
    file = (tmp_path / "llava/__init__.py").resolve()
    file.write_text("from .model import LlavaLlamaForCausalLM\n")
    assert [cli.main(["patch", action, str(tmp_path)]) for action in ("apply", "status", "revert")] == [0] * 3
    lines = [line.removesuffix(f": {file}") for line in capsys.readouterr().out.splitlines()]
    assert lines == ["patched", "patched", "unpatched"]


def test_merge(monkeypatch):
    from llava_ego2exo.host import merge

    calls = []
    monkeypatch.setattr(merge, "merge", lambda *args, **options: calls.append((args, options)))
    assert cli.main([*ARGV, "--dtype", "bfloat16"]) == 0
    assert calls == [(("adapter", "base", "out"), {"dtype": "bfloat16"})]
    monkeypatch.setattr(merge, "merge", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a bug is never hidden
        cli.main(ARGV)


@pytest.mark.parametrize(("problems", "code"), [([], 0), (["torch is missing"], 1)])
def test_doctor_exit_code_and_json(monkeypatch, capsys, problems, code):
    from llava_ego2exo import doctor

    monkeypatch.setattr(doctor, "examine", lambda: {"problems": problems})
    assert cli.main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {"problems": problems}
