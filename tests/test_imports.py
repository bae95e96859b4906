"""Who may import whom: decision 10 of the design, read from the sources."""

import ast
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "dinov3_jax"
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported(tree):
    """Absolute module names of every import statement below ``tree``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def imports(path):
    return set(imported(ast.parse(path.read_text())))


def module_level_imports(path):
    tree = ast.parse(path.read_text())
    inner = (ast.FunctionDef, ast.AsyncFunctionDef)
    outer = [node for node in ast.walk(tree) if isinstance(node, inner)]
    inside = {id(child) for function in outer for child in ast.walk(function)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in inside:
            found |= set(imported(ast.Module([node], [])))
    return found


def top(names):
    return {name.partition(".")[0] for name in names}


def below(folder):
    return [path for path in FILES if path.is_relative_to(PACKAGE / folder)]


@pytest.mark.parametrize("path", below("data"), ids=module_name)
def test_data_never_imports_jax(path):
    """Not even by way of another module of ours."""
    seen, queue = set(), [module_name(path)]
    while queue:
        name = queue.pop()
        seen.add(name)
        outside = {n for n in imports(MODULES[name]) if n not in MODULES}
        assert not top(outside) & {"jax", "flax", "optax", "orbax"}, name
        queue += [n for n in imports(MODULES[name]) if n in MODULES and n not in seen]


@pytest.mark.parametrize("path", below("losses"), ids=module_name)
def test_losses_import_only_jax(path):
    assert top(imports(path) - {"dinov3_jax.losses.normalize"}) <= {"jax"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_libraries_that_have_one_place(path):
    name, names = module_name(path), top(imports(path))
    if name != "dinov3_jax.checkpoint":
        assert "orbax" not in names
    if "flax" in names:
        # models/ declares modules; the others split and merge graphs, and need nnx.merge for it.
        assert ".models." in name or name in (
            "dinov3_jax.train.step", "dinov3_jax.train.targets", "dinov3_jax.train.gram",
            "dinov3_jax.train.evaluate", "dinov3_jax.train.summary",
        )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_torch_and_tensorflow_are_asked_for_when_needed(path):
    heavy = {"torch", "tensorflow", "transformers", "timm", "safetensors", "tensorflow_datasets"}
    assert not top(module_level_imports(path)) & heavy


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_recipes_launchers_and_tests_are_not_imported(path):
    names = imports(path)
    if module_name(path) != "dinov3_jax.cli.pretrain":  # its recipe is chosen, not given
        assert "configs" not in top(names)
    assert not top(names) & {"launch", "tests", "benchmarks"}
    if ".cli" not in module_name(path) and not path.name.startswith("__main__"):
        assert not [name for name in names if name.startswith("dinov3_jax.cli")]


def test_modules_form_no_cycle():
    graph = {
        name: {n for n in imports(path) if n in MODULES} - {name} for name, path in MODULES.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())


def test_packages_form_no_cycle():
    """A package is a folder of dinov3_jax, or a file directly in it; train/ has two layers."""

    def package(name):
        parts = name.split(".")
        # checkpoint.py stands between these and the rest.
        core = ("state", "ema", "optimizer", "groups", "targets", "gram", "step",
                "multistudent_step")  # fmt: skip
        if parts[1] == "train" and len(parts) > 2:
            return "dinov3_jax.train" if parts[2] in core else "dinov3_jax.train.loop"
        return ".".join(parts[:2])

    graph = {}
    for name, path in MODULES.items():
        if name != "dinov3_jax":
            ours = {package(n) for n in imports(path) if n in MODULES and n != "dinov3_jax"}
            graph.setdefault(package(name), set()).update(ours - {package(name)})
    list(graphlib.TopologicalSorter(graph).static_order())


def test_recipes_import_no_jax():
    for path in (ROOT / "configs").rglob("*.py"):
        assert top(imports(path)) <= {"ml_collections", "configs", "math", "re"}, path.name


def test_no_long_files_and_no_drawers():
    for path in FILES:
        assert not re.search(r"(utils?|helpers?|misc|common)\.py$", path.name), path
        assert len(path.read_text().splitlines()) <= 350, path
