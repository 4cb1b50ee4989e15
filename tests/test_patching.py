"""The patch command: byte-for-byte, idempotent, and never on a file it does not know."""

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

from llava_ego2exo import Ego2ExoError, patching

UPSTREAM = b"from .model import LlavaLlamaForCausalLM\n"
_SPEC = importlib.util.find_spec("llava")
REAL = Path(_SPEC.origin) if _SPEC and _SPEC.origin else None


def make_checkout(root: Path, content: bytes = UPSTREAM) -> Path:
    """A folder that holds `llava/__init__.py`; returns that file."""
    file = root / "llava/__init__.py"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


@pytest.fixture
def file(tmp_path):
    return make_checkout(tmp_path / "checkout").resolve()


@pytest.fixture(params=["made here", "the real one"])
def upstream(request, tmp_path):
    """A copy of upstream's file: the known line, and what is installed."""
    if request.param == "made here":
        return make_checkout(tmp_path / "copy")
    if REAL is None:
        pytest.skip("no llava is importable")
    content = REAL.read_bytes()
    if content.count(b"\n") == 2:  # the installed one may be patched already
        content = content.splitlines(keepends=True)[0]
    return make_checkout(tmp_path / "copy", content)


def test_the_patch_adds_one_line_without_context():
    lines = patching.patch_file().read_text().splitlines()
    assert lines[:3] == ["--- a/llava/__init__.py", "+++ b/llava/__init__.py", "@@ -1,0 +2 @@"]
    assert len(lines) == 4
    assert lines[3].startswith("+for _plugin in ")


def test_round_trip_is_byte_for_byte(upstream):
    before, mode = upstream.read_bytes(), stat.S_IMODE(upstream.stat().st_mode)
    root = upstream.parents[1]
    assert patching.status(root) == "unpatched"
    assert patching.apply(root) == "patched"
    assert patching.status(root) == "patched"
    assert upstream.read_bytes().startswith(before)
    assert patching.revert(root) == "unpatched"
    assert upstream.read_bytes() == before
    assert stat.S_IMODE(upstream.stat().st_mode) == mode
    assert os.listdir(upstream.parent) == ["__init__.py"]


def test_windows_newlines_are_kept(tmp_path):
    before = UPSTREAM.replace(b"\n", b"\r\n")
    file = make_checkout(tmp_path, before)
    patching.apply(tmp_path)
    assert file.read_bytes().count(b"\r\n") == file.read_bytes().count(b"\n") == 2
    patching.revert(tmp_path)
    assert file.read_bytes() == before


def test_mode_and_other_hard_links_are_kept(file):
    file.chmod(0o640)
    cache = file.parents[2] / "cache.py"
    os.link(file, cache)
    patching.apply(file.parent)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert cache.read_bytes() == UPSTREAM


def test_a_second_time_writes_nothing(file, monkeypatch):
    assert patching.apply(file.parent) == "patched"
    monkeypatch.setattr(patching, "_write", lambda *_: pytest.fail("wrote"))
    assert patching.apply(file.parent) == "already patched"


def test_revert_of_an_unpatched_file_writes_nothing(file, monkeypatch):
    monkeypatch.setattr(patching, "_write", lambda *_: pytest.fail("wrote"))
    assert patching.revert(file.parent) == "already unpatched"


def test_path_may_be_checkout_package_or_relative(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert [patching.locate(path) for path in (file.parents[1], str(file.parent), ".")] == [file] * 3


def test_checkout_that_is_itself_named_llava(tmp_path):
    file = make_checkout(tmp_path / "llava")
    assert patching.locate(tmp_path / "llava") == file.resolve()


def test_without_a_path_the_importable_llava_is_found_and_not_imported(file, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "llava"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(file.parents[1]))
    assert patching.locate() == file
    assert patching.apply() == "patched"
    assert "llava" not in sys.modules


@pytest.mark.parametrize("stand_in", [None, types.ModuleType("llava")], ids=["hidden", "without a spec"])
def test_no_importable_llava(monkeypatch, stand_in):
    monkeypatch.setitem(sys.modules, "llava", stand_in)
    with pytest.raises(Ego2ExoError, match="finds no `llava` package.*install one of them"):
        patching.locate()


def test_a_folder_named_llava_that_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "llava").mkdir()
    monkeypatch.delitem(sys.modules, "llava", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(Ego2ExoError, match="finds no `llava` package"):
        patching.locate()


@pytest.mark.parametrize("name", ["", "absent", "renamed"])
def test_a_path_without_llava(tmp_path, name):
    (tmp_path / "renamed").mkdir()
    (tmp_path / "renamed/__init__.py").write_bytes(UPSTREAM)
    with pytest.raises(Ego2ExoError, match="no llava at .*Allowed: a LLaVA checkout"):
        patching.status(tmp_path / name)


@pytest.mark.parametrize("act", [patching.status, patching.apply, patching.revert])
@pytest.mark.parametrize(
    "content",
    [b"", b"import os\n", UPSTREAM.strip(), UPSTREAM + b"x = 1\n", b"x = 1\n" + UPSTREAM, b"\xff\xfe\n"],
)
def test_an_unknown_file_is_refused_and_left_alone(tmp_path, act, content):
    file = make_checkout(tmp_path, content)
    with pytest.raises(Ego2ExoError, match="__init__.py is not recognised: .*differs in .*add this line to it by hand"):
        act(tmp_path)
    assert file.read_bytes() == content


def test_the_refusal_shows_the_difference_and_stays_short(tmp_path):
    make_checkout(tmp_path, UPSTREAM + b"alpha = 1\n" * 50)
    with pytest.raises(Ego2ExoError, match="alpha = 1.* and 47 more lines"):
        patching.status(tmp_path)


def test_an_edited_plugin_line_is_refused(file):
    patching.apply(file.parent)
    file.write_bytes(file.read_bytes().replace(b"_plugin.load()()", b"_plugin.load()"))
    with pytest.raises(Ego2ExoError, match="not recognised"):
        patching.revert(file.parent)


def test_a_read_only_file_is_refused(file):
    file.chmod(0o444)
    with pytest.raises(Ego2ExoError, match="cannot write .*read-only.*make the file and its folder writable"):
        patching.apply(file.parent)
    assert file.read_bytes() == UPSTREAM
    assert os.listdir(file.parent) == ["__init__.py"]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failure_while_writing_leaves_everything_as_it_was(file, monkeypatch, function):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(Ego2ExoError, match="cannot write .*disk full"):
        patching.apply(file.parent)
    assert file.read_bytes() == UPSTREAM
    assert os.listdir(file.parent) == ["__init__.py"]


def test_an_unreadable_file(file, monkeypatch):
    def fail(_):
        raise PermissionError("denied")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(Ego2ExoError, match="cannot read .*denied"):
        patching.status(file.parent)


def test_the_repository_serves_the_patch_without_an_installation(monkeypatch):
    def fail(_):
        raise ModuleNotFoundError("llava_ego2exo.patches")

    monkeypatch.setattr(patching.resources, "files", fail)
    place = Path(patching.__file__).parents[1] / "patches" / patching.PATCH_NAME
    if not place.is_file():
        pytest.skip("this package runs from an installation")
    assert patching.patch_file() == place


def test_a_missing_patch(monkeypatch):
    monkeypatch.setattr(patching, "PATCH_NAME", "absent.patch")
    with pytest.raises(Ego2ExoError, match="absent.patch is missing.*install llava-ego2exo again"):
        patching.patch_file()


@pytest.mark.parametrize("text", ["", "@@ -1,0 +2 @@\n", "+++ b/x\n+line\n", "@@ -1 +1 @@\n-a\n+b\n"])
def test_a_damaged_patch(tmp_path, file, monkeypatch, text):
    broken = tmp_path / "broken.patch"
    broken.write_text(text)
    monkeypatch.setattr(patching, "patch_file", lambda: broken)
    with pytest.raises(Ego2ExoError, match="broken.patch is damaged"):
        patching.status(file.parent)


@pytest.mark.parametrize(
    ("command", "back"),
    [(["git", "apply", "--unidiff-zero"], "-R"), (["patch", "-p1", "-s", "-i"], "-R")],
    ids=["git", "patch"],
)
def test_other_tools_agree(upstream, tmp_path, command, back):
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    theirs = make_checkout(tmp_path / "theirs", upstream.read_bytes())
    patching.apply(upstream.parent)
    where = {"cwd": theirs.parents[1], "env": os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}, "check": True}
    reverse = [command[0], command[1], back, *command[2:]]
    subprocess.run([*command, str(patching.patch_file())], **where)
    assert theirs.read_bytes() == upstream.read_bytes()
    subprocess.run([*reverse, str(patching.patch_file())], **where)
    patching.revert(upstream.parent)
    assert theirs.read_bytes() == upstream.read_bytes()


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
    # -I and -S: nothing that is installed in this environment takes part
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import llava"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ("started\n" if points else "")
