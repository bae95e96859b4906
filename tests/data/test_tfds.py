import io

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.data.decode import decode
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.tfds import open_tfds


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        __module__ = "tiny"  # TFDS looks for no checksum file beside a module that is not there
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                image = io.BytesIO()
                Image.fromarray(np.full((6, 7, 3), 20 * i, np.uint8)).save(image, "PNG")
                image.seek(0)
                yield i, {"image": image, "label": i % 2}

    folder = tmp_path_factory.mktemp("tfds")
    builder = Tiny(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


def test_reads_a_prepared_set(prepared):
    source = open_tfds(f"{prepared}:train")
    assert len(source) == 5
    assert source.classes == ("a", "b")
    levels = [int(decode(source[i].image)[0, 0, 0]) for i in range(5)]
    assert sorted(levels) == [0, 20, 40, 60, 80]
    assert source.labels.tolist() == [level // 20 % 2 for level in levels]
    assert source[3].label == source.labels[3]
    assert source[3].id == "tiny/1.0.0:train/3"
    assert isinstance(source[0].image, bytes)


def test_errors(prepared):
    with pytest.raises(SourceError, match="wanted 'name:split'"):
        open_tfds("mnist")
    with pytest.raises(SourceError, match=r"has splits \['train'\], wanted 'test'"):
        open_tfds(f"{prepared}:test")
    with pytest.raises(SourceError, match="knows no data set 'no_such_set'"):
        open_tfds("no_such_set:train")
    with pytest.raises(SourceError, match="tfds build mnist"):
        open_tfds("mnist:train")
