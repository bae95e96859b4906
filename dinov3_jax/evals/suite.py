"""All evaluations by name: ``dinov3 eval --eval=NAME`` and ``eval.suite`` of a recipe."""

from dinov3_jax.evals.classification import knn, logistic
from dinov3_jax.evals.evaluation import Evaluation

EVALUATIONS: dict[str, Evaluation] = {
    "knn": Evaluation(
        knn.evaluate,
        knn.KnnSettings,
        "top1",
        "k nearest neighbours by cosine; class folders train/ and test/, ImageNet-1k, "
        "fashion_mnist",
    ),
    "logistic": Evaluation(
        logistic.evaluate,
        logistic.LogisticSettings,
        "top1",
        "logistic regression by scikit-learn; data as for knn",
    ),
}
