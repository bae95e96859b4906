"""What devices say to each other in one train step, read from the compiled program."""

import collections
import re

import jax

from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from tests.tiny import compile_step, place, tiny_batch, tiny_config, tiny_state

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

# What each is for. Nothing is computed again here (remat "none"), so nothing is gathered again.
PURPOSES = (
    ("all-gather", r"teacher_targets/.*blocks/", "a block's four matrices before use, teacher"),
    ("all-gather", r"transpose.*blocks/", "a block's four matrices again, backward"),
    ("all-gather", r"jvp\(student_outputs\).*blocks/", "a block's four matrices, student forward"),
    ("all-gather", r"teacher_targets/.*all_gather", "patch embedding and both heads, teacher"),
    ("all-gather", r"jvp\(student_outputs\).*all_gather", "patch embedding and heads, student"),
    ("all-gather", r"total_loss.*top_k", "cosines [G, S, n, n] of KoLeo: top_k is not partitioned"),
    ("reduce-scatter", r"transpose.*blocks/", "gradients of a block's four matrices"),
    ("reduce-scatter", r"transpose", "gradients of patch embedding and both heads"),
    ("all-reduce", r"teacher_targets/reduce_", "Sinkhorn: maximum and sum per prototype, 3 times"),
    ("all-reduce", r"transpose", "gradients of vectors, of all blocks at once; gradient norms"),
)  # fmt: skip


# Everything random is on, and the prototypes are frozen for the first two steps.
RANDOM = {
    "student.drop_path": 0.4,
    "student.rope_shift": 0.2,
    "student.rope_rescale": 2.0,
    "optim.freeze_last_layer": 2,
}


def compiled_text() -> str:
    """The optimised program of the tiny step on eight devices."""
    config = tiny_config(**RANDOM)
    mesh = make_mesh(MeshConfig(1, 8, 1, 1), jax.devices()[:8])
    with jax.set_mesh(mesh):
        state, batch = place(config, mesh, tiny_state(config), tiny_batch(config))
        return compile_step(config, mesh).lower(state, batch, jax.random.key(0)).compile().as_text()


def find(program: str) -> list[tuple[str, str]]:
    """(kind, name of the operation in our code) of every collective."""
    pattern = re.compile(rf" ({'|'.join(KINDS)})(?:-start)?\(.*")
    found = []
    for line in program.splitlines():
        if match := pattern.search(line):
            name = re.search(r'op_name="([^"]*)"', line)
            found.append((match[1], name[1] if name else ""))
    return found


def summary(program: str) -> str:
    counts = collections.Counter()
    for kind, name in find(program):
        purposes = (p for k, pattern, p in PURPOSES if k == kind and re.search(pattern, name))
        counts[kind, next(purposes, f"not expected: {name}")] += 1
    rows = [f"one step, fsdp = 8, CPU, jax {jax.__version__}; what stands in the scan counts once"]
    for kind in KINDS:
        ours = {purpose: n for (k, purpose), n in counts.items() if k == kind}
        rows.append(f"{kind}: {sum(ours.values())}")
        rows += [f"  {n:3} {purpose}" for purpose, n in sorted(ours.items())]
    return "\n".join(rows) + "\n"


def text() -> str:
    return summary(compiled_text())
