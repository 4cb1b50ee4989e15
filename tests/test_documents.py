"""What README and docs say is what the code does: commands, tables, code blocks, recipe."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llava_ego2exo.doctor import LIBRARIES, PYTHON

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("*/*.md"))]


def read(file):
    return (ROOT / file).read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def shell_commands(text):
    for block in blocks(text, "bash"):
        for line in filter(str.strip, block.splitlines()):
            yield shlex.split(line, comments=True)


def test_the_two_commands():
    """A reader who tries the repository finds them first, in a block of their own."""
    text = read("README.md").split("## Try it")[1].split("## ")[0]
    assert [command[:2] for command in shell_commands(text)] == [
        ["bash", "scripts/demo.sh"],
        ["bash", "scripts/test.sh"],
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_commands_exist(document):
    """Scripts are there, and our console script knows each subcommand and flag."""
    from llava_ego2exo.cli import build_parser

    for command in shell_commands(document.read_text(encoding="utf-8")):
        words = [word for word in command if not re.match(r"[A-Z_0-9]+=", word)]
        if words[0] == "bash":
            assert (ROOT / words[1]).is_file(), command
        if words[0] == "llava-ego2exo":
            build_parser().parse_args([word for word in words[1:] if word != "[PATH]"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_code_blocks_compile_and_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for block in blocks(text, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("llava_ego2exo"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), block
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("http") or (document.parent / target).exists(), target


def test_generated_parts_are_current():
    done = subprocess.run([sys.executable, ROOT / "scripts/make_docs.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun: python scripts/make_docs.py"


def test_versions_are_those_of_doctor_and_of_the_scripts():
    readme, installed = read("README.md"), read("scripts/requirements-test.txt") + read("scripts/_environment.sh")
    for library in (PYTHON, *LIBRARIES):
        assert f"| {library.name} | {', '.join(library.tested) or 'none'} |" in readme
        for version in re.findall(rf"^(?:pip install .*)?\b{library.name}==([\d.]+)", readme, re.MULTILINE):
            assert version in library.tested
        if library.name in ("python", "flash-attn"):
            continue
        assert f"{library.name}=={library.tested[0]}" in installed or f":-{library.tested[0]}" in installed, library


def test_training_flags_exist(training_parser):
    found = [command for document in DOCUMENTS for command in shell_commands(document.read_text(encoding="utf-8"))]
    commands = [command for command in found if "llava_ego2exo.train" in command]
    assert commands
    for command in commands:
        arguments = command[command.index("llava_ego2exo.train") + 1 :]
        parsed, left_over = training_parser.parse_known_args(arguments)
        assert not left_over
        assert parsed.ego2exo and parsed.lora_enable and parsed.bits == 4 and parsed.bf16


def test_demo_flags_in_the_script_exist():
    from llava_ego2exo.demo.__main__ import parse

    usage = "\n".join(line for line in read("scripts/demo.sh").splitlines() if line.startswith("#"))
    assert {"--full", "--seeds", "--quick", "--out"} == set(re.findall(r"(--\w+)", usage))
    parse(["--full", "--seeds", "3", "--out", "DIR"])
    parse(["--quick"])
