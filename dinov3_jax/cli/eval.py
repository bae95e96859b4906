"""``dinov3 eval --model=... --eval=... --data=... --out=DIR``: docs/evaluation.md."""

import argparse
import time
from collections.abc import Sequence

import jax

from dinov3_jax.cli.models import add_model_flags, open_model
from dinov3_jax.config import ConfigError, MeshConfig
from dinov3_jax.data.sources import SourceError
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.evals import results
from dinov3_jax.evals.results_page import number
from dinov3_jax.evals.settings import check_names, find, parse
from dinov3_jax.evals.suite import EVALUATIONS
from dinov3_jax.features.store import local, weights_digest


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 eval",
        description="Scores of a frozen model, written evaluation by evaluation. The same command "
        "again goes on with those that are not there yet.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_flags(parser)
    parser.add_argument(
        "--eval",
        required=True,
        metavar="NAME,NAME@LABEL",
        help="see --list; with labels one evaluation on several data or settings",
    )
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="PATH|NAME=PATH",
        help="for all evaluations, or for one; may be repeated",
    )
    parser.add_argument(
        "--set",
        default=[],
        action="append",
        metavar="NAME.KEY=VALUE",
        help="a setting of one evaluation; may be repeated",
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument(
        "--list", action="version", version=listing(), help="the evaluations and their settings"
    )
    options = parser.parse_args(argv)
    names = options.eval.split(",")
    wanted = choose(names, options.data, options.set)
    out = local(options.out)
    model = open_model(options)
    whose = {"model": model.name, "weights": weights_digest(model)}
    there = results.finished(out, wanted, **whose)
    mesh = make_mesh(MeshConfig(-1, 1, 1, 1), jax.local_devices())
    for name, settings in wanted.items():
        if name in there:
            print(f"{name}: is in {out}")
            continue
        start = time.perf_counter()
        try:
            result = find(name).evaluate(model, settings, mesh)
        except SourceError as error:
            raise SourceError(f"{name}: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        seconds = time.perf_counter() - start
        results.write(out, name, settings, result, seconds=seconds, **whose)
        main = find(name).main
        print(f"{name}: {main} {number(result.metrics[main])} ({seconds:.0f} s)")
    print(f"{out}/index.html")


def listing() -> str:
    """Every evaluation: name, main metric, what it is, and its settings with their defaults."""
    rows = []
    for name, evaluation in EVALUATIONS.items():
        settings = parse(name, "", ())
        keys = " ".join(
            f"{key}={value}".replace(" ", "")
            for key, value in vars(settings).items()
            if key != "data"
        )
        rows.append(f"{name:12} {evaluation.main:12} {evaluation.about}\n{'':26}{keys}")
    return "\n".join(rows)


def choose(
    names: Sequence[str], data: Sequence[str], assignments: Sequence[str]
) -> dict[str, object]:
    """Name -> settings of the evaluations ``names``, in that order.

    ``data``: PATH for all, or NAME=PATH; ``assignments``: NAME.key=value. Raises ``ConfigError``
    for a name that is not among ``names``, or is there twice, or an evaluation without data.
    """
    check_names(names, "--eval")
    shared, paths, settings = None, {}, {name: [] for name in names}
    for flag in data:
        name, equals, path = flag.partition("=")
        if equals and name.partition("@")[0] in EVALUATIONS:  # a path may hold "=" too
            if name in paths:
                raise ConfigError(f"--data={name}=... is there twice; label them, as {name}@A")
            paths[name] = path
        elif shared is None:
            shared = flag
        else:
            raise ConfigError(
                f"--data={shared} and --data={flag} are both for all; wanted one, and "
                "--data=NAME=PATH for an evaluation with data of its own"
            )
    for flag in assignments:
        name, dot, assignment = flag.partition(".")
        if not dot or "=" not in assignment:
            raise ConfigError(f"--set={flag}, wanted --set=NAME.key=value")
        if name in settings:
            settings[name].append(assignment)
        else:
            raise ConfigError(f"--set={flag} is for {name}; --eval asks for {', '.join(names)}")
    strange = [name for name in paths if name not in settings]
    if strange:
        raise ConfigError(
            f"--data={strange[0]}=... is for {strange[0]}; --eval asks for {', '.join(names)}"
        )
    if shared is not None:
        paths = dict.fromkeys(names, shared) | paths
    bare = [name for name in names if name not in paths]
    if bare:
        raise ConfigError(f"{bare[0]} has no data; add --data=PATH or --data={bare[0]}=PATH")
    return {name: parse(name, paths[name], settings[name]) for name in names}
