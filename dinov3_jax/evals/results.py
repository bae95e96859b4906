"""A folder of results: what ``dinov3 eval`` writes, evaluation by evaluation.

results.json        evaluation (NAME or NAME@LABEL) -> metrics, settings, model, digest of its
                    weights, seconds, captions of its pictures
results.csv         evaluation,metric,value
index.html          the page, nothing of it fetched from anywhere
pictures/NAME-0.png ..
"""

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.evals import results_page
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.evals.settings import find
from dinov3_jax.features.formats import write_text, write_whole


def finished(out: Path, wanted: dict[str, Any], *, model: str, weights: str) -> set[str]:
    """Which of the evaluations ``wanted``, name -> settings, ``out`` holds; it is made if need be.

    Raises ``ConfigError`` if it holds results of another model, or one of ``wanted`` with other
    settings, or other things than results.
    """
    if not (out / "results.json").exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} is there and holds no results; give a new or empty folder")
        out.mkdir(parents=True, exist_ok=True)
        return set()
    there = read(out)
    ours = {"model": model, "weights": weights}
    for name, entry in there.items():
        changed = _changes({key: entry[key] for key in ours}, ours)
        if name in wanted:
            changed += _changes(entry["settings"], _plain(wanted[name]))
        if changed:
            raise ConfigError(
                f"{out} holds {name} of another evaluation ({'; '.join(changed)}); take another "
                "--out, or set these back to go on with that one"
            )
    finish(out)  # a run may have been killed between results.json and the page
    return wanted.keys() & there.keys()


def write(
    out: Path,
    name: str,
    settings: Any,
    result: Result,
    *,
    model: str,
    weights: str,
    seconds: float,
) -> None:
    """Adds one finished evaluation; all files are whole at any time, results.json comes first."""
    check(name, result)
    folder = out / "pictures"
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(result.pictures):
        Image.fromarray(picture.pixels).save(folder / f"{name}-{i}.png")
    entries = read(out) if (out / "results.json").exists() else {}
    entries[name] = {
        "metrics": result.metrics,
        "settings": _plain(settings),
        "model": model,
        "weights": weights,
        "seconds": round(seconds, 1),
        "pictures": [picture.caption for picture in result.pictures],
    }
    write_text(out / "results.json", json.dumps(entries, indent=1) + "\n")
    finish(out)


def finish(out: Path) -> None:
    """Makes results.csv and index.html of results.json and the pictures."""
    entries = read(out)

    def write_csv(draft):
        with open(draft, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("evaluation", "metric", "value"))
            for name, entry in entries.items():
                rows.writerows((name, metric, value) for metric, value in entry["metrics"].items())

    write_whole(out / "results.csv", write_csv)
    write_text(out / "index.html", results_page.page_of(entries, out / "pictures"))


def read(out: Path) -> dict[str, dict]:
    """Evaluation -> its entry, in the order in which they were finished."""
    path = out / "results.json"
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}); take another folder") from error


def check(name: str, result: Result) -> None:
    """``ConfigError`` for a metric that is not finite, or if the main one is missing."""
    bad = {key: value for key, value in result.metrics.items() if not math.isfinite(value)}
    main = find(name).main
    if bad or main not in result.metrics:
        raise ConfigError(
            f"{name} gives {bad or list(result.metrics)}, wanted finite numbers and {main} among "
            "them; are the weights those of a run that has diverged?"
        )


def _plain(settings: Any) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _changes(there: dict, now: dict) -> list[str]:
    return [
        f"{key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key)
    ]
