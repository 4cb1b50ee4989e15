"""The patch command: byte-for-byte, idempotent, and never on a file it does not know."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llava_ego2exo import Ego2ExoError, patching
from llava_ego2exo.patching import UPSTREAM


def make_checkout(root: Path, content: bytes = UPSTREAM) -> Path:
    """A folder that holds `llava/__init__.py`; returns that file."""
    file = root / "llava/__init__.py"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


@pytest.fixture
def file(tmp_path):
    return make_checkout(tmp_path / "checkout").resolve()


def test_round_trip(file, tmp_path):
    """Byte for byte; mode and other hard links are kept, and a second time writes nothing."""
    root = file.parents[1]
    file.chmod(0o640)
    os.link(file, tmp_path / "cache.py")
    assert (patching.status(root), patching.apply(root), patching.status(root)) == ("unpatched", "patched", "patched")
    assert file.read_bytes() == UPSTREAM + patching.plugin_line()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640 and (tmp_path / "cache.py").read_bytes() == UPSTREAM
    written = file.stat().st_mtime_ns
    assert patching.apply(root) == "already patched" and file.stat().st_mtime_ns == written
    assert (patching.revert(root), patching.revert(root)) == ("unpatched", "already unpatched")
    assert file.read_bytes() == UPSTREAM and os.listdir(file.parent) == ["__init__.py"]


def test_places(file, tmp_path, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert [patching.locate(path) for path in (file.parents[1], str(file.parent), ".")] == [file] * 3
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/llava").symlink_to(file.parent)
    assert patching.apply(tmp_path / "linked") == "patched"
    for name in [name for name in sys.modules if name.partition(".")[0] == "llava"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(file.parents[1]))
    assert patching.locate() == file and "llava" not in sys.modules
    monkeypatch.setitem(sys.modules, "llava", None)
    with pytest.raises(Ego2ExoError, match="no `llava` package"):
        patching.locate()
    with pytest.raises(Ego2ExoError, match="no llava at"):
        patching.status(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", UPSTREAM + b"x = 1\n"])
def test_an_unknown_file_is_refused_and_left_alone(file, content):
    file.write_bytes(content)
    for act in (patching.status, patching.apply, patching.revert):
        with pytest.raises(Ego2ExoError, match="not recognised"):
            act(file.parent)
    assert file.read_bytes() == content


def test_a_file_that_cannot_be_written(file, monkeypatch):
    file.chmod(0o444)
    with pytest.raises(Ego2ExoError, match="read-only"):
        patching.apply(file.parent)
    file.chmod(0o644)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(Ego2ExoError, match="disk full"):
        patching.apply(file.parent)
    assert file.read_bytes() == UPSTREAM and os.listdir(file.parent) == ["__init__.py"]


def test_git_apply_agrees(file):
    command = ["git", "apply", "--unidiff-zero", str(patching.patch_file())]
    subprocess.run(command, cwd=file.parents[1], env=os.environ | {"GIT_CEILING_DIRECTORIES": "/"}, check=True)
    assert patching.status(file.parent) == "patched"


@pytest.mark.parametrize("points", ["", "[llava.plugins]\none = plugin_one:start\n"], ids=["no plugin", "a plugin"])
def test_a_patched_llava_calls_every_plugin(tmp_path, points):
    file = make_checkout(tmp_path)
    (file.parent / "model.py").write_text("LlavaLlamaForCausalLM = None\n")
    (tmp_path / "plugin_one.py").write_text("def start():\n    print('started')\n")
    info = tmp_path / "plugin_one-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-one\nVersion: 1\n")
    (info / "entry_points.txt").write_text(points)
    patching.apply(tmp_path)
    # -I and -S: without anything that is installed in this environment
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import llava"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ("started\n" if points else "")
