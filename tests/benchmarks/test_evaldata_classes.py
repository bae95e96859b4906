import numpy as np

from benchmarks import evaldata_classes as evaldata
from dinov3_jax.data.benchmarks import imagenet
from dinov3_jax.data.benchmarks.classification import open_classification


def test_at_most_so_many_evenly_spaced(photos):
    found = dict(evaldata.class_files(photos / "clothing/train", each=1))
    assert {name: [f.name for f in files] for name, files in found.items()} == {
        "a": ["0.jpg"],
        "b": ["0.jpg"],
    }


def test_few_are_class_folders(photos, tmp_path):
    data = open_classification(evaldata.few(photos, tmp_path))
    assert data.classes == ("a", "b")
    assert (len(data.train.labels), len(data.test.labels)) == (6, 6)


def test_the_sets_of_imagenet_have_its_labels(photos, tmp_path):
    data = open_classification(evaldata.imagenet(photos, tmp_path))
    classes = data.classes
    assert classes == tuple(sorted(evaldata.WNIDS.values()))
    real = imagenet.open_real(str(tmp_path / "real.json"), data.test, classes)
    assert [[label] for label in data.test.labels] == real
    v2 = imagenet.open_v2(str(tmp_path / "imagenetv2-matched-frequency-format-val"), classes)
    assert np.bincount(v2.labels).tolist() == [3] * 10
    assert len(imagenet.open_wnids(str(tmp_path / "sketch"), classes).labels) == 30
    r = imagenet.open_wnids(str(tmp_path / "imagenet-r"), classes)
    assert np.unique(r.labels).tolist() == [0, 2, 4, 6, 8]
    framed, right = imagenet.open_objectnet(
        str(tmp_path / "objectnet"), str(tmp_path / "objectnet.json"), classes
    )
    assert len(right) == 30
    for i in (0, 29):  # the frame that the reader cuts off is all that was added
        (label,) = right[i]
        same = [j for j, other in enumerate(v2.labels) if other == label]
        assert any(np.array_equal(framed.image(i), v2.image(j)) for j in same)
