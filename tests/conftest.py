"""Eight simulated CPU devices for every test, and a compiler that hurries.

All of it happens before anything asks for a device, for the backend starts once. Code that names no
mesh runs on the first device, so tests that know nothing of devices are not affected.
"""

import os

import jax
import jaxlib

# Compiling is most of the time of these tests. An unknown flag would end the process, hence the
# version.
if jaxlib.__version__.startswith("0.10."):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_num_cpu_devices", 8)
