import numpy as np

from dinov3_jax.evals.classification.pictures import false_alarms


def test_false_alarms_are_the_surest_classes_that_images_lack():
    classes = ("cat", "dog", "car")
    labels = np.array([[1, 0, 0], [0, 0, 0], [-1, 1, 0], [1, 1, 0]])
    scores = np.array([[9.0, 2.0, 1.0], [0.0, 0.5, 3.0], [9.0, 9.0, -1.0], [9.0, 9.0, -2.0]])
    pixels = np.zeros((8, 8, 3), np.uint8)
    found = false_alarms(scores, labels, classes, lambda i: pixels + np.uint8(i))
    assert [picture.caption for picture in found] == [
        "no class, taken for car (probability 0.95)",  # 1 / (1 + exp(-3))
        "cat, taken for dog (probability 0.88)",  # 1 / (1 + exp(-2))
    ]
    assert [int(picture.pixels[0, 0, 0]) for picture in found] == [1, 0]
    (first,) = false_alarms(scores, labels, classes, lambda i: pixels, count=1)
    assert first.caption == found[0].caption
