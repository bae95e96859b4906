"""All evaluations by name: ``dinov3 eval --eval=NAME`` and ``eval.suite`` of a recipe."""

from dinov3_jax.evals.discovery import attention_masks, foreground, tokencut
from dinov3_jax.evals.evaluation import Evaluation
from dinov3_jax.evals.tracking import davis

EVALUATIONS: dict[str, Evaluation] = {
    "davis": Evaluation(
        davis.evaluate,
        davis.DavisSettings,
        "J&F",
        "masks of the first frame carried through a clip: DAVIS 2017, YouTube-VOS, MOSE, own clips",
    ),
    "tokencut": Evaluation(
        tokencut.evaluate,
        tokencut.TokenCutSettings,
        "corloc",
        "one object found without labels: VOC07, VOC12, COCO 20k, own images with boxes.csv",
    ),
    "attention": Evaluation(
        attention_masks.evaluate,
        attention_masks.AttentionSettings,
        "jaccard",
        "attention of the best head against masks: VOC12, own images/ and masks/",
    ),
    "foreground": Evaluation(
        foreground.evaluate,
        foreground.ForegroundSettings,
        "ap",
        "foreground from patches, an image left out at a time: own images/ and masks/, VOC12",
    ),
}
