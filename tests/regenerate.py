"""Golden texts: ``python -m tests.regenerate`` writes them anew and prints what changed.

A change that shows here is meant, or it is a bug: read the difference before committing it.
"""

import difflib
import importlib
import pathlib

import jax

from configs import base
from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.models import build
from dinov3_jax.recipe import from_config_dict, to_dict
from tests import collectives, conftest  # noqa: F401  eight devices, as in the tests

FOLDER = pathlib.Path(__file__).parent / "goldens"
FILES = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")
    if path.stem not in ("__init__", "base")
)


def recipes(file: str) -> dict:
    """Name -> complete recipe: the file's own name, or FILE.STUDENT for each of its students."""
    config = importlib.import_module(f"configs.{file}").get_config()
    if "students" not in config:
        return {file: config}
    return {f"{file}.{name}": student for name, student in config.students.items()}


RECIPES = [name for file in FILES for name in recipes(file)]


def texts() -> dict:
    """Golden file name -> function that makes its text."""
    configs = {f"configs/{file}.txt": lambda file=file: config_text(file) for file in FILES}
    return configs | {
        "sharding_vit_7b_fsdp8.txt": sharding_text,
        "collectives.txt": collectives.text,
    }


def check(name: str) -> None:
    """Fails with the difference unless the golden file holds today's text."""
    compare(name, texts()[name]())


def compare(name: str, got: str) -> None:
    """Fails with the difference unless the golden file holds ``got``."""
    path = FOLDER / name
    wanted = path.read_text() if path.exists() else ""
    changes = "\n".join(difference(wanted, got, name))
    assert got == wanted, f"\n{changes}\nif this is meant: python -m tests.regenerate"


def difference(old: str, new: str, name: str) -> list[str]:
    lines = (old.splitlines(), new.splitlines())
    return list(difflib.unified_diff(*lines, f"{name} (golden)", f"{name} (now)", lineterm="", n=1))


def recipe(name: str):
    """The recipe that ``RECIPES`` calls ``name``."""
    return recipes(name.partition(".")[0])[name]


def config_text(file: str) -> str:
    """Every key of the resolved recipe, or of all students one after another, one a line."""

    def lines(section, prefix):
        for key, value in section.items():
            if isinstance(value, dict):
                yield from lines(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key} = {value!r}"

    rows = []
    for name, config in recipes(file).items():
        student = name.partition(".")[2]
        prefix = f"students.{student}." if student else ""
        rows += lines(to_dict(from_config_dict(config)), prefix)
    return "\n".join(rows) + "\n"


def sharding_text() -> str:
    """Where each parameter of the 7B lies on eight devices."""
    config = base.get_config()
    config.student.arch = "vit_7b"
    config.student.untie_global_and_local_cls_norm = True
    config.dino.head.update(prototypes=262_144, hidden=8192, bottleneck=512)
    config.ibot.head.update(prototypes=98_304, hidden=4096, bottleneck=384)
    config = from_config_dict(config)
    shapes = jax.eval_shape(lambda: build.init_params(config, jax.random.key(0)))
    mesh = make_mesh(MeshConfig(1, 8, 1, 1), jax.devices()[:8])
    specs = sharding.param_specs(shapes, mesh)
    rows, whole, each = [], 0, 0
    is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)  # noqa: E731
    leaves = zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(specs, is_leaf=is_spec)
    )
    for (path, leaf), spec in leaves:
        parts = 8 if "fsdp" in spec else 1
        whole, each = whole + leaf.size, each + leaf.size // parts
        axes = [*spec, *[None] * (leaf.ndim - len(spec))]
        sizes = " x ".join(f"{n}/{axis}" if axis else str(n) for n, axis in zip(leaf.shape, axes))
        rows.append(f"{sharding.path_name(path):44}{sizes}")
    total = f"{whole:,} parameters, {each:,} of them on each of 8 devices"
    return (
        "\n".join(["fsdp = 8; n/fsdp: an eighth of the axis on each device", *rows, total]) + "\n"
    )


def main() -> None:
    changed = False
    for name, make in texts().items():
        path, new = FOLDER / name, make()
        old = path.read_text() if path.exists() else ""
        if new != old:
            changed = True
            print("\n".join(difference(old, new, name)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(new)
    for path in sorted(FOLDER.rglob("*.txt")):
        if str(path.relative_to(FOLDER)) not in texts():
            changed = True
            print(f"{path.relative_to(FOLDER)}: nothing makes it any more, removed")
            path.unlink()
    if not changed:
        print("nothing changed")


if __name__ == "__main__":
    main()
