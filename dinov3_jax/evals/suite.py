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
from dinov3_jax.evals.correspondence import navi, own as own_matches, spair
from dinov3_jax.evals.dense import depth, segmentation
from dinov3_jax.evals.discovery import attention_masks, foreground, tokencut
from dinov3_jax.evals.evaluation import Evaluation
from dinov3_jax.evals.retrieval import amstertime, copydays, met, own as own_retrieval, revisited
from dinov3_jax.evals.tracking import davis

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
        alone=True,
    ),
    "imagenet": Evaluation(
        imagenet.evaluate,
        imagenet.ImagenetSettings,
        "top1",
        "a linear classifier of ImageNet-1k on ReaL, V2, R, A, Sketch, C and ObjectNet",
        alone=True,
    ),
    "attentive": Evaluation(
        attentive.evaluate,
        attentive.AttentiveSettings,
        "top1",
        "a small transformer on frozen patch tokens; clips or (frames=1) images in class folders",
        alone=True,
    ),
    "finetune": Evaluation(
        finetune.evaluate,
        finetune.FinetuneSettings,
        "top1",
        "all weights trained to classify; class folders",
        alone=True,
    ),
    "voc07": Evaluation(
        voc07.evaluate,
        voc07.Voc07Settings,
        "map",
        "logistic regressions of images with several labels; VOCdevkit/VOC2007",
    ),
    "oxford": Evaluation(
        revisited.evaluate,
        revisited.OxfordSettings,
        "map_medium",
        "instance retrieval: Revisited Oxford or Paris, gnd_*.pkl and jpg/",
    ),
    "met": Evaluation(
        met.evaluate,
        met.MetSettings,
        "gap",
        "which exhibit, or none: the Met dataset, its JSON lists and images/",
    ),
    "amstertime": Evaluation(
        amstertime.evaluate,
        amstertime.AmsterTimeSettings,
        "map",
        "places then and now, both ways: AmsterTime, old/ and new/",
    ),
    "copydays": Evaluation(
        copydays.evaluate,
        copydays.CopydaysSettings,
        "map",
        "copy detection: Copydays, original/ and strong/",
    ),
    "retrieval": Evaluation(
        own_retrieval.evaluate,
        own_retrieval.RetrievalSettings,
        "map",
        "retrieval of one's own: queries/ and database/, of classes or with a pairs.csv",
    ),
    "navi": Evaluation(
        navi.evaluate,
        navi.NaviSettings,
        "recall",
        "geometric correspondence in centimetres: NAVI, OBJECT/wild_set/",
    ),
    "spair": Evaluation(
        spair.evaluate,
        spair.SPairSettings,
        "pck",
        "semantic correspondence: SPair-71k, PairAnnotation/ and JPEGImages/",
    ),
    "matches": Evaluation(
        own_matches.evaluate,
        own_matches.MatchesSettings,
        "pck",
        "correspondence of one's own: a CSV file of points in two images",
    ),
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
