"""The students of a run: one, or several that share a frozen teacher and the batches.

Each has the workdir of an ordinary run. Time in it is that of the whole run (checkpoint numbers,
rows of metrics); its own schedules count from the step at which it joined.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import time
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from dinov3_jax import checkpoint
from dinov3_jax.config import TrainConfig
from dinov3_jax.data.sources import Source
from dinov3_jax.distributed import agree
from dinov3_jax.evals.similarity import write_similarity
from dinov3_jax.models import build
from dinov3_jax.recipe import to_dict
from dinov3_jax.train import evaluate, guard, local_saves, metrics, workdir as workdirs
from dinov3_jax.train.start import Sources, find_sources, start
from dinov3_jax.train.state import TrainState
from dinov3_jax.train.step import hyperparameters
from dinov3_jax.train.suite import suite_row

_log = logging.getLogger(__name__)


class Plan(NamedTuple):
    config: TrainConfig
    workdir: epath.Path
    sources: Sources
    fresh: bool  # without a checkpoint of its own
    local: pathlib.Path | None  # where this process keeps states between checkpoints


@dataclasses.dataclass
class Student:
    """What the loop moves forward: a state, and where its numbers go."""

    name: str
    config: TrainConfig
    workdir: epath.Path
    state: TrainState
    begin: int  # step of the run at which it was at its own step 0
    fresh: bool  # it starts in this call
    manager: Any
    local: pathlib.Path | None
    writer: metrics.MetricsWriter | None  # of the first process
    mesh: Mesh
    forward: evaluate.Forward
    eval_data: evaluate.EvalData
    watch: guard.Guard
    window: metrics.Window
    last_loss: float = float("nan")
    saving: checkpoint.Saving | None = None  # under way

    @property
    def end(self) -> int:
        """Step of the run after which it is done."""
        return self.begin + self.config.steps

    def note(self, step: int, raw: dict, records: dict, rates: dict | None) -> None:
        """Takes in the metrics of ``step``; writes a row if there are ``rates`` to go with it."""
        scalars = {name: float(value) for name, value in raw.items()}
        self.watch.look(step, scalars, records)
        self.window.add(scalars)
        if rates is not None:
            row = self.window.means() | rates
            self.last_loss = row["loss/total"]
            if self.writer is not None:
                self.writer.write(step + 1, row)

    def save(self, done: int) -> None:
        """Starts to save the state after ``done`` steps, unless that is there."""
        begun = time.time()
        checkpoint.wait(self.manager)  # one save at a time
        self.note_save()
        if checkpoint.save(self.manager, self.state, done):
            self.saving = checkpoint.Saving(done, begun, time.time() - begun)

    def save_locally(self, done: int) -> None:
        """Writes the state after ``done`` steps on this machine, if it is time for that."""
        assert self.local is not None  # the loop asks
        if done % self.config.checkpoint.local_every:
            return
        begun = time.time()
        written = local_saves.save(self.local, self.state, done)
        if written and self.writer is not None:
            self.writer.write(done, {"checkpoint/local_seconds": time.time() - begun})

    def note_save(self) -> None:
        """Writes the row of a save that has come to its end; raises what went wrong in it."""
        checkpoint.check(self.manager)
        if self.saving is None or self.writer is None:
            return
        row = checkpoint.cost(self.manager, self.saving)
        if row is not None:
            self.writer.write(self.saving.step, row)
            self.saving = None

    def assess(self, done: int) -> None:
        """Writes the evaluation row and the similarity picture of the teacher after ``done``."""
        temperature = hyperparameters(self.state.step, self.config)["teacher_temperature"]
        teacher, images = self.state.teacher, self.eval_data.health
        seen = self.forward.dense(teacher, images)
        row = evaluate.evaluate_teacher(
            self.forward, teacher, self.eval_data, self.config, float(temperature), seen=seen
        )
        row |= suite_row(self.config, teacher, self.mesh, first=done == self.begin)
        if self.writer is not None:
            self.writer.write(done, row)
            write_similarity(self.workdir, done, images, seen.patch_tokens)


def prepare(
    configs: dict[str, TrainConfig], workdir: epath.Path, source: Source
) -> tuple[dict[str, Plan], dict[str, evaluate.EvalData]]:
    """Looks at everything the students need and claims their workdirs; compiles nothing."""
    recipes = {name: to_dict(config) for name, config in configs.items()}
    agree.check_same("the recipe", json.dumps(recipes))
    agree.check_same("the data set", source.fingerprint)
    plans, loaded = {}, {}
    for name, config in configs.items():
        own = workdir / name if name else workdir
        steps = checkpoint.complete_steps(own)
        agree.check_same(f"the list of checkpoints in {own}", str(steps))
        fresh = not steps
        plans[name] = Plan(config, own, find_sources(config, resuming=not fresh), fresh, None)
    for config in configs.values():
        if config.eval not in loaded:
            loaded[config.eval] = evaluate.load_eval_data(config, source)
    for name, plan in plans.items():
        number = workdirs.claim(plan.workdir, plan.config, source)
        identity = f"{number}\n{workdirs.identity(plan.config, source)}"
        local = local_saves.folder(plan.config.checkpoint, plan.workdir, identity)
        plans[name] = plan._replace(local=local)
    return plans, {name: loaded[config.eval] for name, config in configs.items()}


@contextlib.contextmanager
def open_students(
    plans: dict[str, Plan],
    eval_data: dict[str, evaluate.EvalData],
    workdir: epath.Path,
    mesh: Mesh,
    source: Source,
):
    """Context of (students, step of the run they all stand at)."""
    with contextlib.ExitStack() as stack:
        managers = {
            name: stack.enter_context(
                checkpoint.open_checkpoints(plan.workdir, plan.config.checkpoint)
            )
            for name, plan in plans.items()
        }
        states, begins, now = _restore(plans, managers, workdir, mesh)
        students = []
        for name, plan in plans.items():
            writer = None
            if jax.process_index() == 0:
                writer = metrics.MetricsWriter(plan.workdir)
                stack.enter_context(contextlib.closing(writer))
                writer.rewind(begins[name] + int(states[name].step))
            students.append(
                Student(
                    name=name,
                    config=plan.config,
                    workdir=plan.workdir,
                    state=states[name],
                    begin=begins[name],
                    fresh=plan.fresh,
                    manager=managers[name],
                    local=plan.local,
                    writer=writer,
                    mesh=mesh,
                    forward=evaluate.make_forward(plan.config, build.networks(plan.config), mesh),
                    eval_data=eval_data[name],
                    watch=guard.Guard(plan.config, plan.workdir, source),
                    window=metrics.Window(),
                )
            )
        yield students, now


def _restore(plans, managers, workdir, mesh):
    """(states, step of the run at which each was at its own 0, step of the run they stand at).

    A kill may have come between the saves of two students: then those ahead go back to the newest
    step that all have. One that has all its steps stays as it is, wherever the others are.
    """
    states, own = {}, {}

    def restore(name, newest=None):
        plan = plans[name]
        states[name] = start(
            plan.config, mesh, managers[name], plan.sources, local=plan.local, newest=newest
        )
        own[name] = int(states[name].step)

    for name in plans:
        restore(name)
    if plans.keys() == {""}:
        return states, {"": 0}, own[""]
    begins = workdirs.begins(workdir)
    known = [name for name in plans if name in begins]
    running = [name for name in known if own[name] < plans[name].config.steps]
    while len({begins[name] + own[name] for name in running}) > 1:
        limit = min(begins[name] + own[name] for name in running)
        for name in running:
            if begins[name] + own[name] > limit:
                restore(name, newest=limit)
    now = max((begins[name] + own[name] for name in running or known), default=0)
    begins |= {name: now - own[name] for name in plans if name not in begins}
    agree.barrier("all have read where students began")
    if jax.process_index() == 0:
        workdirs.write_begins(workdir, begins)
    return states, begins, now
