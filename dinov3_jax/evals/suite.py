"""All evaluations by name: ``dinov3 eval --eval=NAME`` and ``eval.suite`` of a recipe."""

from dinov3_jax.evals.evaluation import Evaluation

EVALUATIONS: dict[str, Evaluation] = {}
