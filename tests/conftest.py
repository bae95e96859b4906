"""Eight simulated CPU devices for every test, and the random draws they share."""

import jax

# Before anything asks for a device: the backend starts once. Code that names no mesh runs on the
# first device, so tests that know nothing of devices are not affected.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
