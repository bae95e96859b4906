"""What several students of one teacher cost: ``python -m benchmarks.students``.

Times one step of students A and B together, each alone, and the teacher's forward, interleaved in
one run, and prints the ratio together / (A + B - teacher). 1 means that sharing the teacher saves
all that it can save.
"""

import statistics
import time

import jax

from benchmarks.synthetic import random_batch
from configs import base
from dinov3_jax.config import TrainConfig
from dinov3_jax.models import build
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.multistudent_step import multistudent_step
from dinov3_jax.train.state import init_state
from dinov3_jax.train.step import train_step
from dinov3_jax.train.targets import teacher_outputs

ROUNDS = 15


def recipe(width: int, depth: int) -> TrainConfig:
    config = base.get_config()
    config.batch.images = config.batch.group = 16
    student = config.student
    student.patch_size, student.storage_tokens, student.dtype = 8, 4, "float32"
    student.embed_dim, student.depth, student.num_heads = 192, 6, 3
    for head in (config.dino.head, config.ibot.head):
        head.prototypes, head.hidden, head.bottleneck = 512, 256, 64
    config.distill = base.distill(config)
    student.embed_dim, student.depth = width, depth
    config.optim.freeze_last_layer = 0
    config.optim.lr.warmup = config.teacher.temperature.warmup = 0
    crops = config.crops
    crops.global_size, crops.local_size, crops.local_count = 64, 32, 4
    return from_config_dict(config)


def main() -> None:
    configs = {"A": recipe(96, 6), "B": recipe(144, 4)}
    key = jax.random.key(0)
    frozen = jax.jit(lambda: build.init_distill_params(configs["A"], key))()
    batch = random_batch(configs["A"])
    networks = {name: build.networks(config) for name, config in configs.items()}
    states = {
        name: jax.jit(lambda config=config: init_state(config, key))()
        for name, config in configs.items()
    }

    def alone(name):
        return (
            jax.jit(
                lambda s, b: train_step(
                    s, b, key, frozen, config=configs[name], networks=networks[name]
                )
            )
            .lower(states[name], batch)
            .compile()
        )

    together = jax.jit(
        lambda s, b: multistudent_step(s, b, key, frozen, configs=configs, networks=networks)
    )
    theirs = build.distill_networks(configs["A"])
    teacher = jax.jit(lambda b: teacher_outputs(frozen, b, config=configs["A"], networks=theirs))
    runs = {
        "A": (alone("A"), (states["A"], batch)),
        "B": (alone("B"), (states["B"], batch)),
        "teacher": (teacher.lower(batch).compile(), (batch,)),
        "together": (together.lower(states, batch).compile(), (states, batch)),
    }
    seconds = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):
        for name, (function, arguments) in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    sharing = median["A"] + median["B"] - median["teacher"]
    print(
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s), {ROUNDS} rounds, medians"
    )
    for name, value in median.items():
        print(f"{name:10} {value * 1e3:8.1f} ms")
    print(f"together / (A + B - teacher) = {median['together'] / sharing:.3f}")


if __name__ == "__main__":
    main()
