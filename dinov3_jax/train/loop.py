"""The training loop: data in, steps, metrics, checkpoints, evaluations, a report at the end."""

import collections
import contextlib
import logging
import signal

import jax
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax import checkpoint
from dinov3_jax.augment.augment import augment
from dinov3_jax.config import ConfigError, TrainConfig
from dinov3_jax.data.pipeline import train_batches
from dinov3_jax.data.sources import open_source
from dinov3_jax.distributed.mesh import global_batch, make_mesh
from dinov3_jax.models import build
from dinov3_jax.train import evaluate, guard, metrics as train_metrics, summary, workdir as workdirs
from dinov3_jax.train.check import check_recipe
from dinov3_jax.train.state import create_state, init_state, state_shardings
from dinov3_jax.train.step import Batch, hyperparameters, train_step

_log = logging.getLogger(__name__)

_BOOKKEEPING = ("record", "skipped")  # stay on the host
_LAG = 2  # steps the host runs ahead of the metrics it reads, so that reading never stalls a device


def train(config: TrainConfig, workdir: epath.PathLike) -> dict[str, float]:
    """Runs or resumes ``config`` in ``workdir`` up to ``config.steps``; returns the last row.

    Writes metrics.jsonl, tensorboard/, checkpoints/, config.json and report.html. SIGTERM and
    SIGINT save a checkpoint and return normally (SIGTERM, often followed by a kill, without the
    report); the same call then goes on where it stopped.
    """
    workdir = epath.Path(workdir)
    mesh = make_mesh(config.mesh)
    check_recipe(config, mesh)
    if jax.process_count() > 1:
        raise ConfigError(
            f"{jax.process_count()} processes: training runs on the devices of one host so far"
        )
    source = open_source(config.data)
    networks = build.networks(config)
    eval_data = evaluate.load_eval_data(config, source)
    workdirs.claim(workdir, config, source)
    with (
        jax.set_mesh(mesh),
        checkpoint.open_checkpoints(workdir, config.checkpoint) as manager,
        contextlib.closing(train_metrics.MetricsWriter(workdir)) as writer,
        _stop_requested() as stop,
    ):
        state = _start(config, mesh, manager)
        writer.rewind(int(state.step))
        forward = evaluate.make_forward(config, networks, mesh)
        _banner(config, mesh, source, state)

        def assess(state):
            temperature = hyperparameters(state.step, config)["teacher_temperature"]
            row = evaluate.evaluate_teacher(
                forward, state.teacher, eval_data, config, float(temperature)
            )
            writer.write(int(state.step), row)

        state = _run(config, mesh, source, state, manager, writer, assess, stop, workdir)
        if stop.signal != signal.SIGTERM:
            summary.report(workdir, config, eval_data, forward, state.teacher)
    return (train_metrics.read_metrics(workdir) or [{}])[-1]


def _run(config, mesh, source, state, manager, writer, assess, stop, workdir):
    """Steps from ``state.step`` to the end of the run or to a signal."""
    key = jax.random.key(config.seed)
    step_fn = compile_step(config, mesh)
    start, window, pending = int(state.step), train_metrics.Window(), collections.deque()
    watch = guard.Guard(config, workdir, source)
    if start == 0:
        assess(state)
    batches = _prefetch(config, mesh, source, start)
    bar = train_metrics.progress_bar(
        start,
        config.steps,
    )
    clock = train_metrics.Clock(config.batch.images, start)
    with (
        contextlib.closing(batches),
        contextlib.closing(bar),
        _profiler(config, workdir) as profiler,
    ):
        for step in range(start, config.steps):
            with clock.waiting():
                arrays, records = next(batches)
            profiler.before(step)
            state, raw = step_fn(state, arrays, key)
            pending.append((step, raw, records))
            done = step + 1
            stopping = stop.signal is not None  # read once: a signal may come at any moment
            last = done == config.steps or stopping
            while len(pending) > (0 if last else _LAG):
                number, raw, records = pending.popleft()
                scalars = {name: float(value) for name, value in raw.items()}
                if number == start:
                    clock.restart(number + 1)  # the first step compiles
                watch.look(number, scalars, records)
                window.add(scalars)
                bar.update(1)
                if (number + 1) % config.log.every == 0 or (last and not pending):
                    row = window.means() | clock.rates(number + 1)
                    writer.write(number + 1, row)
                    bar.set_postfix_str(
                        f"loss {row['loss/total']:.3f}  {row['images_per_second']:.0f} img/s  "
                        f"data wait {row['data_wait']:.0%}"
                    )
            checkpoint.check(manager)
            if last or done % config.checkpoint.every == 0:
                with clock.paused():
                    checkpoint.save(manager, state, done)
            if stopping:
                checkpoint.wait(manager)
                _log.warning("signal received: saved step %d, stopping", done)
                break
            if last or done % config.eval.every == 0:
                with clock.paused():
                    assess(state)
    return state


def compile_step(config: TrainConfig, mesh: Mesh):
    """jit of (state, batch of the data pipeline, key) -> (state, metrics); the state is donated.

    Augmentation (or normalisation) of the uint8 batch is part of the program.
    """
    networks = build.networks(config)
    replicated = NamedSharding(mesh, P())

    def step(state, arrays, key):
        with jax.named_scope("augment"):
            global_crops, local_crops = augment(arrays, crops=config.crops)
        masks = (arrays["masks"], arrays["mask_indices"], arrays["mask_weights"])
        batch = Batch(global_crops, local_crops, *masks)
        return train_step(state, batch, key, config=config, networks=networks)

    return jax.jit(
        step, donate_argnums=0, out_shardings=(state_shardings(config, mesh), replicated)
    )


def _start(config, mesh, manager):
    """The newest checkpoint, or a fresh state."""
    shapes = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    shardings = state_shardings(config, mesh)
    state = checkpoint.restore(manager, checkpoint.abstract_state(shapes, shardings))
    if state is None:
        return create_state(config, mesh)
    _log.info("resumed from step %d", int(state.step))
    return state


def _prefetch(config, mesh, source, start):
    """(device arrays, host bookkeeping) of each step, transfers one step ahead."""
    batches = train_batches(
        source,
        config,
        start_step=start,
        stop_step=config.steps,
    )

    def place(batch):
        arrays = {k: v for k, v in batch.items() if k not in _BOOKKEEPING}
        return global_batch(arrays, mesh), {k: batch[k] for k in _BOOKKEEPING}

    with contextlib.closing(batches):
        ahead = collections.deque()
        for batch in batches:
            ahead.append(place(batch))
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead


@contextlib.contextmanager
def _stop_requested():
    """An object whose ``signal`` is SIGTERM or SIGINT once that came; a second one acts at once."""

    class Request:
        signal: int | None = None

    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number, frame):
        Request.signal = number
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield Request
    finally:
        restore()


@contextlib.contextmanager
def _profiler(config, workdir):
    """One profiler window, written to ``workdir/profile``; ended early if the run ends in it."""
    first, last = config.log.profile_start, None
    if first is not None:
        last = first + config.log.profile_steps

    class Window:
        running = False

        @classmethod
        def before(cls, step):
            if step == first:
                jax.profiler.start_trace(str(workdir / "profile"))
                cls.running = True
            elif step == last and cls.running:
                jax.profiler.stop_trace()
                cls.running = False

    try:
        yield Window
    finally:
        if Window.running:
            jax.profiler.stop_trace()


def _banner(config, mesh, source, state):
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
