"""What is installed against what was tested: ``llava-ego2exo doctor [--json]``.

It reads files and package metadata and imports torch alone (and flash-attn, where installed), so it runs on a machine
on which llava cannot be imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__, patching
from .errors import Ego2ExoError
from .host.hooks.flavour import NAMES, commit_of, detect, package_folder

GIB = 2**30


@dataclass(frozen=True)
class Library:
    """One row of the version table: tested versions, the oldest that can work ("0": any), and what it is for.

    `needed` names the flavours of llava that cannot train or load without it.
    """

    name: str
    tested: tuple[str, ...]
    minimum: str
    use: str
    needed: tuple[str, ...] = ()


BOTH = ("next", "pypi")
PYTHON = Library("python", ("3.11",), "3.10", "everything", BOTH)
LIBRARIES = (
    Library("torch", ("2.13.0",), "2.1", "everything", BOTH),
    Library("transformers", ("4.40.2", "4.45.2"), "4.40", "everything", BOTH),
    Library("accelerate", ("0.34.2",), "0", "loading models and training", BOTH),
    Library("einops", ("0.8.2",), "0.6.1", "reshaping tensors", BOTH),
    Library("pillow", ("13.0.0",), "0", "importing LLaVA's models", BOTH),
    Library("wrapt", ("2.5.2",), "1.14", "hooking into LLaVA", BOTH),
    Library("peft", ("0.10.0",), "0.10", "--lora_enable and merging"),
    Library("bitsandbytes", ("0.50.2",), "0.43", "--bits 4 and --bits 8"),
    Library("flash-attn", (), "2.5", "speed alone; sdpa does the same without it"),
    Library("deepspeed", ("0.14.4",), "0", "training in LLaVA-NeXT, which imports it always", ("next",)),
    Library("av", ("18.1.0",), "14", "reading, cutting, probing and drawing videos"),
    Library("matplotlib", ("3.11.2",), "3.7", "plots of a run, reports"),
    Library("snowballstemmer", ("3.1.1",), "2", "reading replies in evaluation"),
    Library("openai", ("3.57.0",), "1.30", "asking a judge model in evaluation"),
)
# llava-torch comes from the time of transformers 4.36 and ran on 4.37.2.
PYPI_MINIMUM = {"transformers": "4.37"}
# Library and flavour -> the first version that cannot work, and why.
BROKEN_FROM = {("transformers", "next"): ("4.47.1", "no GradientAccumulationPlugin: LLaVA-NeXT cannot train")}


@dataclass
class Findings:
    """Problems stop training or loading; warnings do not."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run(as_json: bool = False) -> int:
    """Print the report, as text or as one JSON object; 1 when something stops training or loading, else 0."""
    report = examine()
    print(json.dumps(report, indent=2) if as_json else _text(report))
    return 1 if report["problems"] else 0


def examine() -> dict[str, Any]:
    """The whole report as a JSON-ready dictionary; no missing package makes it fail."""
    findings = Findings()
    host = _host(findings)
    flavour = host["flavour"]
    return {
        "llava_ego2exo": __version__,
        "host": host,
        "faults": _faults(flavour, findings),
        "versions": [_version(library, flavour, findings) for library in (PYTHON, *LIBRARIES)],
        "hardware": _hardware(),
        "problems": findings.problems,
        "warnings": findings.warnings,
    }


def _host(findings: Findings) -> dict[str, Any]:
    host: dict[str, Any] = {"name": None, "flavour": None, "path": None, "commit": None, "patch": None}
    host["plugins"] = sorted(point.name for point in metadata.entry_points(group="llava.plugins"))
    try:
        folder, host["flavour"] = package_folder(), detect()
        host |= {"path": str(folder), "commit": commit_of(folder), "name": _host_name(folder, host["flavour"])}
        host["patch"] = patching.status(folder)
    except Ego2ExoError as error:
        findings.problems.append(str(error))
    if host["patch"] == patching.UNPATCHED:
        findings.warnings.append(
            "llava is unpatched and loads no plugin by itself: "
            "run `llava-ego2exo patch apply` for programs that know only llava"
        )
    if host["patch"] == patching.PATCHED and "ego2exo" not in host["plugins"]:
        findings.warnings.append("llava is patched, but llava-ego2exo is not installed: run `pip install` on it")
    return host


def _host_name(folder: Path, flavour: str) -> str:
    """Name and version, from the metadata beside this very folder: a second llava may be installed elsewhere."""
    names, project = {"llava", "llava-torch", "llava_torch"}, folder.parent / "pyproject.toml"
    beside = metadata.distributions(path=[str(folder.parent)])
    version = next((dist.version for dist in beside if (dist.metadata["Name"] or "").lower() in names), None)
    if version is None and project.is_file():
        match = re.search(r'^version\s*=\s*"(.+?)"', project.read_text(encoding="utf-8"), re.MULTILINE)
        version = match[1] if match else None
    return f"{NAMES[flavour]} {version or '(version unknown)'}"


def _faults(flavour: str | None, findings: Findings) -> list[dict[str, Any]] | None:
    """The known upstream faults of this llava, and whether each is fixed; None when they cannot be listed."""
    try:
        from .host.hooks.table import FIXES, enabled_fixes

        enabled = enabled_fixes()
    except (Ego2ExoError, ImportError) as error:  # a fix that does not exist in the environment variable, or no wrapt
        findings.problems.append(f"upstream faults are not listed: {error}")
        return None
    faults = {(fix.key, fix.why): fix for fix in FIXES if flavour in fix.flavours}  # one may sit in several classes
    return [
        {"key": fix.key, "why": fix.why, "fixed": fix.key in enabled, "remove_when": fix.remove_when}
        for fix in faults.values()
    ]


def _version(library: Library, flavour: str | None, findings: Findings) -> dict[str, Any]:
    """A row of the report: what is installed of a library, and the verdict on it."""
    name, needed = library.name, library.needed == BOTH or flavour in library.needed
    minimum = PYPI_MINIMUM.get(name, library.minimum) if flavour == "pypi" else library.minimum
    found, error = _installed(name)
    known, verdict = found not in (None, "unknown"), "untested"
    if found is None:
        verdict = "missing"
        if needed:
            findings.problems.append(f"{name} is missing; it is needed for {library.use}")
    elif error:
        verdict = "broken"
        findings.problems.append(f"{name} {found} cannot be imported ({error}): reinstall or remove it")
    elif {found.split("+")[0], found.rpartition(".")[0] if library is PYTHON else found} & set(library.tested):
        verdict = "tested"
    elif known and _numbers(found) < _numbers(minimum):
        verdict = "too old"
        where = findings.problems if needed else findings.warnings
        where.append(f"{name} {found} is too old: {minimum} or later is needed")
    first_broken, why = BROKEN_FROM.get((name, flavour), ("", ""))
    if known and first_broken and _numbers(found) >= _numbers(first_broken):
        findings.problems.append(f"{name} {found}: {why}")
    row = {"name": name, "found": found, "verdict": verdict, "tested": list(library.tested)}
    return {**row, "needed": needed, "use": library.use}


def _installed(name: str) -> tuple[str | None, str]:
    """Version of what Python would import (None: nothing), and why its import fails."""
    if name == PYTHON.name:
        return platform.python_version(), ""
    module = {"pillow": "PIL"}.get(name, name.replace("-", "_"))
    if importlib.util.find_spec(module) is None:
        return None, ""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = "unknown"
    if name not in ("torch", "flash-attn"):
        return found, ""
    try:  # compiled against one CUDA or torch: present and unusable is common, and transformers then fails with it
        importlib.import_module(module)
    except Exception as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers; "4.40.0.dev0", to which LLaVA-NeXT pins transformers, counts as 4.40.0."""
    numbers = [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _hardware() -> dict[str, Any]:
    try:
        import torch

        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except Exception:  # no torch, a broken one, or a driver that does not answer: the table says which
        cards = []
    memory, disk = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), shutil.disk_usage(".").free
    gpus = [{"name": card.name, "memory_gib": round(card.total_memory / GIB, 1)} for card in cards]
    return {"gpus": gpus, "memory_gib": round(memory / GIB, 1), "free_disk_gib": round(disk / GIB, 1)}


def _text(report: dict[str, Any]) -> str:
    host, hardware, faults = report["host"], report["hardware"], report["faults"]
    lines = [f"llava-ego2exo  {report['llava_ego2exo']}", f"llava          {host['name'] or 'none that is usable'}"]
    if host["path"]:
        lines += [f"  at           {host['path']}", f"  commit       {host['commit'] or 'unknown'}"]
        lines += [f"  patch        {host['patch'] or 'not recognised'}"]
    lines += [f"  plugins      {', '.join(host['plugins']) or 'none installed'}", "", "upstream faults in this llava"]
    lines += ["  unknown" if faults is None else "  none known"] * (not faults)
    for fault in faults or ():
        lines.append(f"  {'fixed    ' if fault['fixed'] else 'NOT fixed'}   {fault['key']}: {fault['why']}")
    lines += ["", "versions"]
    for row in report["versions"]:
        note = "" if row["verdict"] == "tested" else f" (tested: {', '.join(row['tested']) or 'none'})"
        if row["verdict"] == "missing":
            note = f" ({'needed' if row['needed'] else 'only used'} for {row['use']})"
        lines.append(f"  {row['name']:<16} {row['found'] or '-':<15} {row['verdict']}{note}")
    cards = ", ".join(f"{card['name']} ({card['memory_gib']} GiB)" for card in hardware["gpus"]) or "no CUDA device"
    lines += ["", f"GPU            {cards}", f"host memory    {hardware['memory_gib']} GiB"]
    lines += [f"free disk      {hardware['free_disk_gib']} GiB", ""]
    lines += [f"warning: {text}" for text in report["warnings"]]
    lines += [f"problem: {text}" for text in report["problems"]] or ["no problems found"]
    return "\n".join(lines)
