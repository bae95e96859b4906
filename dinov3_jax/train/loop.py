"""The training loop: data in, steps, metrics, checkpoints, evaluations, a report at the end."""

import collections
import contextlib
import logging
import signal

import jax
from etils import epath
from jax.sharding import Mesh

from dinov3_jax import checkpoint
from dinov3_jax.config import TrainConfig
from dinov3_jax.data.mixture import images_seen
from dinov3_jax.data.pipeline import train_batches
from dinov3_jax.data.resolution import resolution_at
from dinov3_jax.data.sources import Source, open_source
from dinov3_jax.distributed import agree
from dinov3_jax.distributed.mesh import global_batch, local_groups, make_mesh
from dinov3_jax.train import metrics as train_metrics, summary
from dinov3_jax.train.check import check_recipe, check_students
from dinov3_jax.train.profiler import profiler
from dinov3_jax.train.program import BOOKKEEPING, Arguments, compile_steps
from dinov3_jax.train.start import load_frozen
from dinov3_jax.train.stop import stop_requested, stops_after
from dinov3_jax.train.students import Student, open_students, prepare
from dinov3_jax.types import Params

_log = logging.getLogger(__name__)

_LAG = 2  # steps the host runs ahead of the metrics it reads, so that reading never stalls a device


def train(config: TrainConfig, workdir: epath.PathLike) -> dict[str, float]:
    """Runs or resumes ``config`` in ``workdir`` up to ``config.steps``; returns the last row.

    Writes metrics.jsonl, tensorboard/, checkpoints/, config.json and report.html. SIGTERM and
    SIGINT save a checkpoint and return normally (SIGTERM, often followed by a kill, without the
    report); the same call then goes on where it stopped.

    With several processes (``distributed.hosts``) all make this call, on a folder that all see.
    Process 0 alone writes, but for its share of the checkpoints; a signal to one stops all.
    """
    return train_students({"": config}, workdir)[""]


def train_students(
    configs: dict[str, TrainConfig], workdir: epath.PathLike
) -> dict[str, dict[str, float]]:
    """``train`` for several students of one frozen teacher, in one program; their last rows.

    Student NAME has the workdir ``workdir/NAME``, which is that of an ordinary run. A student
    added on resume starts from its own step 0 and has all its steps before it; one left out is
    left as it is.
    """
    workdir = epath.Path(workdir)
    shared = next(iter(configs.values()))
    mesh = make_mesh(shared.mesh)
    for config in configs.values():
        check_recipe(config, mesh, platform=mesh.devices.flat[0].platform)
    check_students(configs)
    source = open_source(shared.data)
    plans, eval_data = prepare(configs, workdir, source)
    with (
        jax.set_mesh(mesh),
        open_students(plans, eval_data, workdir, mesh, source) as (students, start),
        stop_requested() as stop,
    ):
        frozen = load_frozen(shared, mesh, plans[students[0].name].sources)
        for student in students:
            _banner(student, mesh, source)
        _run(students, mesh, source, frozen, start, stop)
        if agree.largest(stop.signal or 0) != signal.SIGTERM:
            for s in students:
                summary.report(s.workdir, s.config, s.eval_data, s.forward, s.state.teacher)
    agree.barrier("the end")  # what process 0 still writes may take longer than JAX would wait
    return {s.name: (train_metrics.read_metrics(s.workdir) or [{}])[-1] for s in students}


def _run(
    students: list[Student],
    mesh: Mesh,
    source: Source,
    frozen: Params | None,
    start: int,
    stop,
):
    """Steps from ``start`` to the end of the last student or to a signal."""
    unfinished = lambda: [s for s in students if int(s.state.step) < s.config.steps]  # noqa: E731
    end = max((student.end for student in unfinished()), default=start)
    if start >= end:
        return
    shared = students[0].config
    key = jax.random.key(shared.seed)
    note = f"stop/{students[0].workdir}/{start}"
    active, programs, pending = [], [], collections.deque()
    for student in students:
        if student.fresh:
            student.assess(start)
    batches = _prefetch(shared, mesh, source, start, end)
    bar = train_metrics.progress_bar(start, end, shown=jax.process_index() == 0)
    clock = train_metrics.Clock(shared.batch.images, start)
    with (
        contextlib.closing(batches),
        contextlib.closing(bar),
        profiler(shared, students[0].workdir) as window,
    ):
        for step in range(start, end):
            if programs == [] or any(step >= s.end for s in active):
                active = unfinished()
                arguments = Arguments({s.name: s.state for s in active}, key, frozen)
                by_name = {s.name: s.config for s in active}
                with clock.paused():
                    programs = compile_steps(by_name, mesh, source, arguments)
            with clock.waiting():
                arrays, records = next(batches)
            window.before(step)
            states = {s.name: s.state for s in active}
            program = programs[resolution_at(shared, step)]
            states, raw = program(states, arrays, key, frozen)
            for s in active:
                s.state = states[s.name]
            pending.append((step, raw, records, active))
            done = step + 1
            asked = stop.signal is not None  # read once: a signal may come at any moment
            stopping = stops_after(done, wanted=asked, ahead=_LAG, name=note)
            last = done == end or stopping
            while len(pending) > (0 if last else _LAG):
                number, raw, records, then = pending.popleft()
                if number == start:
                    clock.restart(number + 1)  # the first step is slow
                rates = None
                if (number + 1) % shared.log.every == 0 or (last and not pending):
                    rates = clock.rates(number + 1) | images_seen(shared, number + 1)
                for s in then:
                    s.note(number, raw[s.name], records, rates)
                bar.update(1)
                if rates is not None:
                    losses = " ".join(f"{s.last_loss:.3f}" for s in then)
                    bar.set_postfix_str(
                        f"loss {losses}  {rates['images_per_second']:.0f} img/s  "
                        f"data wait {rates['data_wait']:.0%}"
                    )
            for s in active:
                s.note_save()
                if s.local is not None and not last:
                    with clock.paused():
                        s.save_locally(done)
                if last or done == s.end or done % s.config.checkpoint.every == 0:
                    with clock.paused():
                        s.save(done)
            if last:
                for s in active:
                    checkpoint.wait(s.manager)
                    s.note_save()
            if stopping:
                _log.warning("signal received: saved step %d, stopping", done)
                break
            for s in active:
                if done == s.end or done % s.config.eval.every == 0:
                    with clock.paused():
                        s.assess(done)


def _prefetch(config, mesh, source, start, end):
    """(device arrays, host bookkeeping) of each step, transfers one step ahead."""
    groups = local_groups(config.batch, mesh)
    batches = train_batches(source, config, start_step=start, stop_step=end, groups=groups)

    def place(batch):
        arrays = {k: v for k, v in batch.items() if k not in BOOKKEEPING}
        return global_batch(arrays, mesh), {k: batch[k] for k in BOOKKEEPING}

    with contextlib.closing(batches):
        ahead = collections.deque()
        for batch in batches:
            ahead.append(place(batch))
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead


def _banner(student, mesh, source):
    config, state = student.config, student.state
    params = sum(x.size for x in jax.tree.leaves(state.student["backbone"]))
    heads = sum(x.size for x in jax.tree.leaves(state.student)) - params
    _log.info(
        "%s: backbone %s parameters (+ %s in the heads), %d images of data, batch %d in %d groups "
        "of %d, %d %s device(s) as %s, %d steps = %.1f passes over the data",
        config.name, f"{params:,}", f"{heads:,}", len(source), config.batch.images,
        config.batch.images // config.batch.group, config.batch.group, mesh.size,
        jax.devices()[0].platform, dict(mesh.shape), config.steps,
        config.steps * config.batch.images / len(source),
    )  # fmt: skip
