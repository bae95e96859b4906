"""Where a run starts: its own checkpoint, another run's, or random parameters.

The chain of stages is made of workdirs: pretraining -> Gram anchoring -> high resolution ->
distillation. What a stage takes from another run is looked at (``find_sources``) before anything
is compiled or written, and named in the log.
"""

import dataclasses
import json
import logging
import pathlib
from typing import NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from dinov3_jax import checkpoint
from dinov3_jax.config import ConfigError, HeadConfig, TrainConfig, VitConfig
from dinov3_jax.distributed import sharding
from dinov3_jax.models import build, presets
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train import local_saves
from dinov3_jax.train.state import TrainState, create_state, init_state, state_shardings
from dinov3_jax.train.workdir import begins
from dinov3_jax.types import Params

_log = logging.getLogger(__name__)

# Settings of a backbone that training alone sees; two runs may differ in them.
_TRAINING_ONLY = ("drop_path", "rope_shift", "rope_jitter", "rope_rescale", "rope_dtype", "dtype",
                  "remat", "remat_blocks", "attention", "fp8", "arch")  # fmt: skip


class Origin(NamedTuple):
    """A checkpoint of another run."""

    workdir: str
    step: int


class Sources(NamedTuple):
    """The other runs that a recipe names; None where it names none."""

    init: Origin | None
    gram: Origin | None
    distill: Origin | None


def find_sources(config: TrainConfig, *, resuming: bool) -> Sources:
    """Finds the checkpoints a recipe asks for; raises ``ConfigError`` if one is not what it wants.

    A source must be a finished run (or name its ``step``) with the same networks. ``resuming``: the
    run has a checkpoint of its own, so that only a distillation's teacher is still read.
    """
    init = gram = teacher = None
    student = (config.student, config.dino.head, config.ibot.head)
    if config.init.from_ and not resuming:
        heads = student[1:] if config.init.heads else (None, None)
        origin = (config.init.from_, config.init.step)
        init = _find("init.from", *origin, config.student, *heads)
    if config.gram is not None and config.gram.teacher == "checkpoint" and not resuming:
        if not config.gram.source:
            raise ConfigError(
                "gram.teacher is 'checkpoint', but gram.source names no run; set gram.source to "
                "a workdir, or gram.teacher to 'ema_at_step' or 'ema'"
            )
        origin = (config.gram.source, config.gram.step)
        gram = _find("gram.source", *origin, config.student, None, None)
    if config.distill is not None:
        if not config.distill.source:
            raise ConfigError("distill.source names no run; set it to the teacher's workdir")
        origin = (config.distill.source, config.distill.step)
        heads = (config.distill.dino_head, config.distill.ibot_head)
        teacher = _find("distill.source", *origin, config.distill.backbone, *heads)
    return Sources(init, gram, teacher)


def _find(
    key: str,
    workdir: str,
    step: int | None,
    backbone: VitConfig,
    dino_head: HeadConfig | None,
    ibot_head: HeadConfig | None,
) -> Origin:
    path = epath.Path(workdir).absolute() / "config.json"
    steps = checkpoint.complete_steps(workdir) if path.exists() else []
    if not steps:
        raise ConfigError(
            f"{key} {workdir!r} is no workdir of a run: no config.json with a complete checkpoint "
            "in it"
        )
    saved, newest, section = json.loads(path.read_text())["config"], steps[-1], key.split(".")[0]
    # A student that joined a run late numbers its checkpoints by the steps of that run.
    own = newest - begins(path.parent.parent).get(path.parent.name, 0)
    if step is not None and step not in steps:
        raise ConfigError(f"{section}.step is {step}, but {workdir!r} has the checkpoints {steps}")
    if step is None and own < saved["steps"]:
        raise ConfigError(
            f"{key} {workdir!r} is an unfinished run: step {own} of {saved['steps']}. Let it "
            f"finish, or take it as it is: --config.{section}.step={newest}"
        )
    theirs = vars(presets.complete(from_config_dict(saved["student"], VitConfig)))
    ours = vars(presets.complete(backbone))
    pairs = [(f"student.{k}", theirs.get(k), v) for k, v in ours.items() if k not in _TRAINING_ONLY]
    for name, head in (("dino", dino_head), ("ibot", ibot_head)):
        if head is not None and name not in saved:
            raise ConfigError(
                f"{key} {workdir!r} holds converted weights, a backbone without heads; "
                "init.heads=False starts from it, a distillation needs a teacher trained here"
            )
        if head is not None:
            there = saved[name]["head"]
            pairs += [(f"{name}.head.{k}", there.get(k), v) for k, v in vars(head).items()]
    wrong = [
        f"{name} {there!r} there, {here!r} here" for name, there, here in pairs if there != here
    ]
    if wrong:
        raise ConfigError(f"{key} {workdir!r} has other networks: {'; '.join(wrong)}")
    return Origin(workdir, newest if step is None else step)


def start(
    config: TrainConfig,
    mesh: Mesh,
    manager,
    sources: Sources,
    *,
    local: pathlib.Path | None = None,
    newest: int | None = None,
) -> TrainState:
    """The newest state of this run, of checkpoints or of ``local`` saves, or that it begins with.

    ``newest``: no checkpoint after this step, and no local save.
    """
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    shardings = state_shardings(config, mesh)
    abstract = checkpoint.abstract(shapes, shardings)
    state = checkpoint.restore(manager, abstract, newest=newest)
    if local is not None and newest is None:
        after = -1 if state is None else int(state.step)
        saved = local_saves.restore(local, abstract, after=after)
        if saved is not None:
            _log.info("resumed from step %d, saved on this machine in %s", int(saved.step), local)
            return saved
    if state is not None:
        _log.info("resumed from step %d", int(state.step))
        return state
    state = create_state(config, mesh)
    if sources.init is not None:
        state = _initialise(state, abstract, config, sources.init)
    if sources.gram is not None:
        networks = {"backbone": abstract.student["backbone"]}
        loaded = checkpoint.load(sources.gram.workdir, sources.gram.step, "teacher", networks)
        state = dataclasses.replace(state, gram_teacher=loaded["backbone"])
        _log.info("Gram teacher: teacher of %s at step %d", *sources.gram)
    elif state.gram_teacher:
        copy = jax.tree.map(lambda x: x.copy(), state.teacher["backbone"])
        state = dataclasses.replace(state, gram_teacher=copy)
    return state


def _initialise(state, abstract, config, origin):
    init = config.init
    if init.optimizer:
        found = checkpoint.load_state(origin.workdir, origin.step, abstract)
        _log.info("start: student, teacher, moments and step of %s at step %d", *origin)
        return dataclasses.replace(found, gram_teacher=state.gram_teacher)
    taken = tuple(abstract.student) if init.heads else ("backbone",)

    def item(name, fresh, like):
        loaded = checkpoint.load(origin.workdir, origin.step, name, {k: like[k] for k in taken})
        return {k: loaded.get(k, fresh[k]) for k in fresh}

    student = item(init.student, state.student, abstract.student)
    teacher = item("teacher", state.teacher, abstract.teacher)
    _log.info(
        "start: student <- %s, teacher <- teacher of %s at step %d; heads %s, optimizer fresh",
        init.student, *origin, "taken" if init.heads else "fresh",
    )  # fmt: skip
    return dataclasses.replace(state, student=student, teacher=teacher)


def load_frozen(config: TrainConfig, mesh: Mesh, sources: Sources) -> Params | None:
    """The teacher of a distillation, sharded like any other; None without one."""
    if sources.distill is None:
        return None
    shapes = jax.eval_shape(lambda: build.init_distill_params(config, jax.random.key(0)))
    shardings = sharding.named(sharding.param_specs(shapes, mesh), mesh)
    abstract = checkpoint.abstract(shapes, shardings)
    _log.info("frozen teacher: teacher of %s at step %d", *sources.distill)
    return checkpoint.load(sources.distill.workdir, sources.distill.step, "teacher", abstract)
