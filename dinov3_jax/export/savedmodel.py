"""TensorFlow's SavedModel: one signature ``serving_default``, the weights as its variables.

The program is the StableHLO of ``jax.export`` in one TensorFlow operation, for CPU, CUDA and TPU.
"""

import functools
import pathlib
from collections.abc import Callable

import numpy as np

from dinov3_jax.export import stablehlo
from dinov3_jax.export.signature import Signature, need, program
from dinov3_jax.models.model import Model


def write(model: Model, path: pathlib.Path, signature: Signature) -> None:
    """A folder for ``tf.saved_model.load``; ``model`` is portable, its weights on the host."""
    need("savedmodel", "tensorflow")
    import tensorflow as tf
    from jax.experimental import jax2tf

    call = jax2tf.convert(
        functools.partial(program, model=model, signature=signature),
        polymorphic_shapes=[None, f"({stablehlo.symbolic(model, signature)})"],
        native_serialization_platforms=stablehlo.PLATFORMS,
        with_gradient=False,
    )
    module = tf.Module()
    # Variables, not constants: a graph holds 2 GiB at most.
    module.params = tf.nest.map_structure(
        lambda leaf: tf.Variable(leaf, trainable=False), model.params
    )
    height, width = signature.size or (None, None)
    images = tf.TensorSpec(
        (signature.batch, height, width, model.config.in_channels), signature.dtype, name="images"
    )
    serve = tf.function(
        lambda images: call(module.params, images), autograph=False, input_signature=[images]
    )
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def load(path: pathlib.Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import tensorflow as tf

    # The signature does not keep its module alive, whose variables it reads.
    module = tf.saved_model.load(str(path))

    def run(images):
        outputs = module.signatures["serving_default"](images=tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items()}

    return run
