"""``dinov3 compare WORKDIR ...``: the last evaluation of several runs, in one table."""

import argparse
import json

from etils import epath

from dinov3_jax.config import ConfigError
from dinov3_jax.train.metrics import read_metrics

# Column -> (key of the metrics, format). All are measured on the teacher.
COLUMNS = {
    "k-NN %": ("eval/knn", ".1f"),
    "patch cosine": ("health/patch_cosine", ".3f"),
    "CLS-patch cosine": ("health/cls_patch_cosine", ".3f"),
    "RankMe CLS": ("health/rankme_cls", ".0f"),
    "RankMe patches": ("health/rankme_patch", ".0f"),
}


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 compare",
        description="k-NN and dense quality of each run: its first evaluation -> its last. Lower "
        "cosines mean that patches can be told apart (docs/dense.md).",
    )
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    print(table([epath.Path(workdir) for workdir in parser.parse_args(argv).workdirs]))


def table(workdirs: list[epath.Path]) -> str:
    """A Markdown table, one row a run; ``ConfigError`` for a folder that is none."""
    rows = [["run", "recipe", "steps", *COLUMNS]]
    for workdir in workdirs:
        evaluated = [row for row in read_metrics(workdir) if "health/patch_cosine" in row]
        if not evaluated:
            raise ConfigError(f"{workdir} is no workdir of a run that was evaluated")
        name = json.loads((workdir / "config.json").read_text())["config"]["name"]
        last, cells = evaluated[-1], []
        for key, form in COLUMNS.values():
            found = [row[key] for row in evaluated if key in row]  # k-NN may have come later
            cells.append(f"{found[0]:{form}} -> {last[key]:{form}}" if key in last else "-")
        rows.append([workdir.name, name, str(last["step"]), *cells])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in rows
    )
