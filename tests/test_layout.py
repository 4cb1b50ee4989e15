"""How the package is laid out: imports run one way and in no circle, folders stay small, names mean one thing."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

import llava_ego2exo

ROOT = Path(llava_ego2exo.__file__).parent

# A module imports from its own part and from the rows above, never from a row below, and never from a part that is
# named beside its own in one row.
FLOORS = """
errors
registry common
config patching
run_config
method video
host.hooks
host.checkpoint host.arguments
host.settings host.fixes
host.model
host.loader
host.merge
host.inference
host.training
host.resume
host.preflight
host.trainer
host.run
planning doctor train
distill.pairs evaluation.items
distill.teach evaluation.benchmarks evaluation.judge evaluation.replies
distill.targets evaluation.stats evaluation.videos
evaluation.check evaluation.job evaluation.report
evaluation.plan
evaluation.preparation
evaluation.results
evaluation.run
lmms demo serving watching
commands
cli
"""
PLACE = {name: row for row, names in enumerate(FLOORS.strip().splitlines()) for name in names.split()}
FILES = sorted(file for file in ROOT.rglob("*.py") if file.name != "__main__.py")
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
MODULES.pop("__init__")


def part_of(module):
    """The entry of `FLOORS` that a module belongs to; the deepest one counts. A folder of several has none."""
    return max((name for name in PLACE if f"{module}.".startswith(f"{name}.")), key=len, default="")


def typing_only(tree):
    """Nodes below `if TYPE_CHECKING:`."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {inner for block in blocks for inner in ast.walk(block)}


def imports_of(module, file):
    """What a module imports, inside functions too: dotted names, those of the package without its name."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package, skipped = ["llava_ego2exo", *module.split(".")], typing_only(tree)
    if file.name != "__init__.py":
        package.pop()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}".removeprefix("llava_ego2exo.") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            yield ast.unparse(node.args[0]).strip("f'\"")


IMPORTS = {module: set(imports_of(module, file)) for module, file in MODULES.items()}
# Module -> modules of the package that it imports; a name inside a module counts as that module.
WITHIN = {module: {found for name in names for found in (name, name.rpartition(".")[0]) if found in MODULES}
        - {module} for module, names in IMPORTS.items()}  # fmt: skip


def test_imports_run_one_way():
    upward = []
    for module, imported in WITHIN.items():
        for other in imported:
            here, there = part_of(module), part_of(other)
            if here != there and here and there and PLACE[there] >= PLACE[here]:
                upward.append(f"{module} imports {other}")
    assert not upward, "\n".join(sorted(upward))


def test_no_import_circle():
    """Modules that import no other one are taken away until none is left."""
    left = {module: set(imported) for module, imported in WITHIN.items() if MODULES[module].name != "__init__.py"}
    while free := [module for module, imported in left.items() if not imported & set(left)]:
        for module in free:
            del left[module]
    assert not left, {module: sorted(imported & set(left)) for module, imported in left.items()}


def test_llava_is_imported_by_host_alone():
    found = {module for module, names in IMPORTS.items() if "llava" in {name.split(".")[0] for name in names}}
    assert all(module.startswith("host.") for module in found), found


def test_method_is_torch_alone():
    used = {name.split(".")[0] for module, names in IMPORTS.items() if part_of(module) == "method" for name in names}
    assert not used & {"transformers", "peft", "accelerate", "numpy"}
    imports = {other for module, imported in WITHIN.items() if part_of(module) == "method" for other in imported}
    assert {part_of(other) for other in imports} <= {"method", "config", "errors"}
    assert not any("torch" in {name.split(".")[0] for name in IMPORTS[m]} for m in ("config", "errors", "registry"))


def test_every_module_has_its_row_and_every_row_its_modules():
    parts = {module: part_of(module) for module, file in MODULES.items() if file.name != "__init__.py"}
    assert all(parts.values()) and set(parts.values()) == set(PLACE), {m for m, part in parts.items() if not part}


def test_folders_are_small():
    counts = Counter(file.parent for file in FILES if file.name != "__init__.py")
    assert all(count <= 12 for count in counts.values()), counts.most_common(3)


def test_a_class_name_stands_for_one_class():
    places = defaultdict(list)
    for module, file in MODULES.items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert not {name: found for name, found in places.items() if len(found) > 1}
