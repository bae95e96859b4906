"""All evaluations by name: ``dinov3 eval --eval=NAME`` and ``eval.suite`` of a recipe."""

from dinov3_jax.evals.classification import (
    attentive,
    finetune,
    imagenet,
    knn,
    linear,
    logistic,
    voc07,
)
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
    "linear": Evaluation(
        linear.evaluate,
        linear.LinearSettings,
        "top1",
        "a grid of linear classifiers, the best on val/ (else on test/); class folders",
    ),
    "imagenet": Evaluation(
        imagenet.evaluate,
        imagenet.ImagenetSettings,
        "top1",
        "a linear classifier of ImageNet-1k on ReaL, V2, R, A, Sketch, C and ObjectNet",
    ),
    "attentive": Evaluation(
        attentive.evaluate,
        attentive.AttentiveSettings,
        "top1",
        "a small transformer on frozen patch tokens; clips or (frames=1) images in class folders",
    ),
    "finetune": Evaluation(
        finetune.evaluate,
        finetune.FinetuneSettings,
        "top1",
        "all weights trained to classify; class folders",
    ),
    "voc07": Evaluation(
        voc07.evaluate,
        voc07.Voc07Settings,
        "map",
        "logistic regressions of images with several labels; VOCdevkit/VOC2007",
    ),
}
