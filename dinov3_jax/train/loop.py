"""The training loop: data in, steps, metrics, checkpoints, evaluations, a report at the end."""

import collections
import contextlib
import dataclasses
import json
import logging
import math
import signal
import time

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax import checkpoint
from dinov3_jax.augment.augment import augment
from dinov3_jax.config import ConfigError, TrainConfig
from dinov3_jax.data.pipeline import train_batches
from dinov3_jax.data.sources import Source, open_source
from dinov3_jax.distributed.mesh import check_batch, global_batch, make_mesh
from dinov3_jax.models import build
from dinov3_jax.train import evaluate, metrics as train_metrics, summary
from dinov3_jax.train.state import create_state, init_state, state_shardings
from dinov3_jax.train.step import Batch, train_step

_log = logging.getLogger(__name__)

# Sections that may change between two starts of one run: they do not touch what is computed.
_FREE = ("mesh", "eval", "checkpoint", "log", "data.threads", "data.workers", "data.buffer",
         "data.path", "data.max_bad_fraction", "name")  # fmt: skip
_BOOKKEEPING = ("record", "skipped")  # stay on the host
_LAG = 2  # steps the host runs ahead of the metrics it reads, so that reading never stalls a device


class TrainingError(RuntimeError):
    """Training cannot go on, why, and what to change."""


def train(config: TrainConfig, workdir: epath.PathLike) -> dict[str, float]:
    """Runs or resumes ``config`` in ``workdir`` up to ``config.steps``; returns the last row.

    Writes metrics.jsonl, tensorboard/, checkpoints/, config.json and report.html. SIGTERM and
    SIGINT save a checkpoint and return normally; the same call then goes on where it stopped.
    """
    workdir = epath.Path(workdir)
    mesh = make_mesh(config.mesh)
    check_batch(config.batch, mesh)
    source = open_source(config.data)
    claim_workdir(workdir, config, source)
    networks = build.networks(config)
    eval_data = evaluate.load_eval_data(config, source)
    with (
        jax.set_mesh(mesh),
        checkpoint.open_checkpoints(workdir, config.checkpoint) as manager,
        contextlib.closing(_writer(workdir)) as writer,
        _stop_requested() as stop,
    ):
        state = _start(config, mesh, manager)
        train_metrics.truncate_metrics(workdir, int(state.step))
        forward = evaluate.make_forward(config, networks, mesh)
        _banner(config, mesh, source, state)

        def assess(state, scalars):
            row = evaluate.evaluate_teacher(
                forward, state.teacher, eval_data, config, scalars["teacher_temperature"]
            )
            writer.write(int(state.step), row)
            return row

        state = _run(config, mesh, source, state, manager, writer, assess, stop, workdir)
        checkpoint.save(manager, state, int(state.step))
        if jax.process_index() == 0:
            summary.report(workdir, config, eval_data, forward, state.teacher)
    return (train_metrics.read_metrics(workdir) or [{}])[-1]


def _run(config, mesh, source, state, manager, writer, assess, stop, workdir):
    """Steps from ``state.step`` to the end of the run or to a signal."""
    key = jax.random.key(config.seed)
    step_fn = compile_step(config, mesh)
    start, window, pending = int(state.step), train_metrics.Window(), collections.deque()
    health = _Health(config, workdir)
    scalars = {"teacher_temperature": config.teacher.temperature.start}
    if start == 0:
        assess(state, scalars)
    batches = _prefetch(config, mesh, source, start)
    bar = train_metrics.progress_bar(start, config.steps, active=jax.process_index() == 0)
    clock = _Clock(config.batch.images)
    with contextlib.closing(batches), contextlib.closing(bar):
        for step in range(start, config.steps):
            with clock.waiting():
                arrays, records = next(batches)
            _profile(config, step, start, workdir)
            state, raw = step_fn(state, arrays, key)
            pending.append((step, raw, records))
            done = step + 1
            stopping = stop.is_set  # read once: a signal may come at any moment
            last = done == config.steps or stopping
            while len(pending) > (0 if last else _LAG):
                number, raw, records = pending.popleft()
                scalars = {name: float(value) for name, value in raw.items()}
                if number == start:
                    clock.restart()  # the first step compiles
                health.look(number, scalars, records)
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
            if last or done % config.eval.every == 0:
                with clock.paused():
                    assess(state, scalars)
            if last or done % config.checkpoint.every == 0:
                with clock.paused():
                    checkpoint.save(manager, state, done)
            if stopping:
                _log.warning("signal received: saved step %d, stopping", done)
                break
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


def claim_workdir(workdir: epath.Path, config: TrainConfig, source: Source) -> None:
    """Writes config.json into a fresh workdir; ``ConfigError`` if another run lives there."""
    path = workdir / "config.json"
    ours = dataclasses.asdict(config)
    if path.exists():
        saved = json.loads(path.read_text())
        changed = _differences(saved["config"], json.loads(json.dumps(ours)))
        changed = [c for c in changed if not c.split(":")[0].startswith(_FREE)]
        if changed:
            raise ConfigError(
                f"{workdir} holds a run of another recipe ({'; '.join(changed)}); take another "
                "--workdir, or set these keys back to resume that run"
            )
        if saved["data"] != source.fingerprint:
            raise ConfigError(
                f"{workdir} holds a run on other data: the listing of {config.data.path!r} has "
                "changed since it started. Restore the files to resume it, or take another "
                "--workdir"
            )
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"config": ours, "data": source.fingerprint}, indent=2))


def _differences(old, new, path=""):
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path}: {old!r} there, {new!r} now"]


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
        process_index=jax.process_index(),
        process_count=jax.process_count(),
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


class _Health:
    """Counts unreadable images and non-finite steps; stops a run that has too many."""

    def __init__(self, config, workdir):
        self._config, self._folder = config, workdir / "nonfinite"
        self._streak = self._bad = self._seen = 0

    def look(self, step: int, scalars: dict[str, float], records: dict[str, np.ndarray]) -> None:
        self._seen += records["skipped"].size + int(records["skipped"].sum())
        self._bad += int(records["skipped"].sum())
        share, limit = self._bad / self._seen, self._config.data.max_bad_fraction
        if share > limit and self._seen >= min(1000, 2 * self._config.batch.images):
            raise TrainingError(
                f"{self._bad} of {self._seen} images could not be read ({share:.1%}, "
                f"data.max_bad_fraction is {limit:.1%}); the log names them. Mend or remove them, "
                "or raise data.max_bad_fraction"
            )
        finite = math.isfinite(scalars["loss/total"])
        finite &= all(math.isfinite(v) for k, v in scalars.items() if k.startswith("grad_norm"))
        self._streak = 0 if finite else self._streak + 1
        if finite:
            return
        dump = {"step": step, "metrics": {k: repr(v) for k, v in scalars.items()}}
        dump["records"] = records["record"].tolist()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step_{step}_process_{jax.process_index()}.json"
        path.write_text(json.dumps(dump, indent=1))
        bad = ", ".join(k for k, v in scalars.items() if not math.isfinite(v))
        _log.error("step %d is not finite (%s); parameters kept, details in %s", step, bad, path)
        if self._streak >= self._config.log.max_nan_steps:
            raise TrainingError(
                f"{self._streak} steps in a row were not finite, the last is step {step} ({bad}); "
                f"{self._folder} holds their images and terms. Lower optim.lr or optim.clip, or "
                "take student.dtype=float32; the last checkpoint is healthy"
            )


class _Clock:
    """Images a second and the share of time spent waiting for data, since the last row."""

    def __init__(self, images: int):
        self._images, self._step = images, None
        self.restart()

    def restart(self) -> None:
        self._since, self._wait, self._step = time.perf_counter(), 0.0, None

    @contextlib.contextmanager
    def waiting(self):
        start = time.perf_counter()
        yield
        self._wait += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self):
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def rates(self, step: int) -> dict[str, float]:
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        steps = step - self._step if self._step is not None else max(step - 1, 1)
        row = {
            "images_per_second": steps * self._images / elapsed,
            "data_wait": min(self._wait / elapsed, 1.0),
            "images_seen": float(step * self._images),
        }
        self._since, self._wait, self._step = now, 0.0, step
        return row


@contextlib.contextmanager
def _stop_requested():
    """An object whose ``is_set`` turns True on SIGTERM or SIGINT, inside the context."""

    class Flag:
        is_set = False

    def handle(signum, frame):
        Flag.is_set = True

    before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield Flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _writer(workdir):
    return train_metrics.MetricsWriter(workdir, active=jax.process_index() == 0)


def _profile(config, step, start, workdir):
    """One profiler window, written to ``workdir/profile``."""
    first = config.log.profile_start
    if first is None:
        return
    if step == max(first, start):
        jax.profiler.start_trace(str(workdir / "profile"))
    if step == max(first, start) + config.log.profile_steps:
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
