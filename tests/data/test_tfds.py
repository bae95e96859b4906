import pytest

from dinov3_jax.data.decode import decode
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.tfds import open_tfds
from tests.data.tiny_tfds import prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(str(tmp_path_factory.mktemp("tfds")))


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
