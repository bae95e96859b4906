"""All evaluations by name: ``dinov3 eval --eval=NAME`` and ``eval.suite`` of a recipe."""

from dinov3_jax.evals.dense import depth, segmentation
from dinov3_jax.evals.evaluation import Evaluation

EVALUATIONS: dict[str, Evaluation] = {
    "segmentation": Evaluation(
        segmentation.evaluate,
        segmentation.SegmentationSettings,
        "miou",
        "classes of pixels by a linear probe; ADE20k, Cityscapes, VOC 2012, images and masks",
    ),
    "depth": Evaluation(
        depth.evaluate,
        depth.DepthSettings,
        "rmse",
        "metres of pixels by a linear probe; NYU, KITTI, images and depths",
    ),
}
