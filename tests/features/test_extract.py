import jax
import numpy as np
import pytest

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError, MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.features.extract import check_layers, check_side, extractor, whole_batch
from tests.features.models import convnext, images, mesh, vit

# rtol, atol: the same float32 sums, in an order that depends on the size of the batch.
NEAR = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    return vit()


def test_it_is_the_model_whatever_batch_and_mesh(model):
    pixels = images(5)
    whole = model(normalize(pixels, mean=model.mean, std=model.std))
    sharded = make_mesh(MeshConfig(1, -1, 1, 1), jax.devices()[:2])
    for on, batch in ((mesh(1), 5), (mesh(2), 3), (sharded, 2)):
        got = extractor(model, on, tokens="cls+patch", batch=batch)(pixels)
        assert {name: x.shape for name, x in got.items()} == {
            "cls": (5, 16),
            "patch_tokens": (5, 2, 3, 16),
        }
        np.testing.assert_allclose(got["cls"], whole.cls, **NEAR)
        flat = got["patch_tokens"].reshape(5, 6, 16)
        np.testing.assert_allclose(flat, whole.patch_tokens, **NEAR)


def test_the_rest_of_a_batch_changes_nothing(model):
    """Rows are independent, to the bit, because the program is the same."""
    pixels, extract = images(5), extractor(model, mesh(), tokens="cls", batch=4)
    together = extract(pixels)["cls"]
    alone = np.concatenate([extract(pixels[i : i + 1])["cls"] for i in range(5)])
    np.testing.assert_array_equal(together, alone)


def test_layers_of_a_vit(model):
    pixels = images(2)
    got = extractor(model, mesh(), tokens="cls+patch", layers=(0, 1), batch=2)(pixels)
    assert sorted(got) == ["cls_0", "cls_1", "patch_tokens_0", "patch_tokens_1"]
    wanted = model.intermediate_layers(normalize(pixels, mean=model.mean, std=model.std), (0, 1))
    for i in (0, 1):
        np.testing.assert_allclose(got[f"cls_{i}"], wanted[i].cls, **NEAR)
    last = extractor(model, mesh(), tokens="cls", batch=2)(pixels)["cls"]
    np.testing.assert_allclose(got["cls_1"], last, **NEAR)


@pytest.mark.parametrize(
    ("patch_size", "stride"), [(None, (4, 16)), (8, (8, 8))], ids=["own grid", "patches"]
)
def test_stages_of_a_convnext_have_their_own_grids(patch_size, stride):
    made = extractor(convnext(patch_size), mesh(1), tokens="patch", layers=(0, 2), batch=1)
    got = made(images(1, 32, 64))
    for layer, s in zip((0, 2), stride):
        assert got[f"patch_tokens_{layer}"].shape == (1, 32 // s, 64 // s, 8)


def test_float16_is_the_rounded_float32(model):
    pixels = images(2)
    full = extractor(model, mesh(), tokens="cls", batch=2)(pixels)["cls"]
    half = extractor(model, mesh(), tokens="cls", batch=2, dtype="float16")(pixels)["cls"]
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))


def test_features_that_are_not_finite(model):
    broken = vit()
    broken.params["norm"]["bias"] = broken.params["norm"]["bias"] + 1e5
    extractor(broken, mesh(), tokens="cls", batch=2)(images(1))
    with pytest.raises(ConfigError, match="features cls of tiny are not finite; float16 ends at"):
        extractor(broken, mesh(), tokens="cls", batch=2, dtype="float16")(images(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "clss"}, "tokens are 'clss', wanted one of cls, patch, cls\\+patch"),
        ({"tokens": "cls", "dtype": "int8"}, "dtype is 'int8', wanted one of float32, float16"),
        ({"tokens": "cls", "layers": (2,)}, "of tiny, which has 2 blocks; .* from 0 to 1"),
        ({"tokens": "cls", "batch": 0}, "batch is 0, wanted at least 1"),
    ],
)
def test_mistakes(model, options, message):
    with pytest.raises(ConfigError, match=message):
        extractor(model, mesh(), **options)


def test_images_off_the_grid(model):
    with pytest.raises(ValueError, match=r"images are \[1, 8, 10, 3\].*multiples of 4"):
        extractor(model, mesh(), tokens="cls")(images(1, 8, 10))


def test_layers_by_number_and_by_index(model):
    assert check_layers(model, 1) == (1,)
    assert check_layers(model, 2) == (0, 1)
    assert check_layers(model, (1, 0, 1)) == (0, 1)
    assert check_layers(convnext(), 3) == (1, 2, 3)
    for wrong in (0, 3, (), (-1,)):
        with pytest.raises(ConfigError, match="2 blocks"):
            check_layers(model, wrong)
    with pytest.raises(ConfigError, match="4 stages"):
        check_layers(convnext(), 5)


def test_a_batch_is_whole_on_every_device():
    assert [whole_batch(n, mesh(2)) for n in (1, 2, 5)] == [2, 2, 6]


def test_layers_without_the_final_norm(model):
    pixels = images(2)
    got = extractor(model, mesh(), tokens="patch", layers=(1,), norm=False, batch=2)(pixels)
    wanted = model(normalize(pixels, mean=model.mean, std=model.std)).prenorm[:, -6:]
    np.testing.assert_allclose(got["patch_tokens_1"].reshape(2, 6, 16), wanted, **NEAR)
    with pytest.raises(ConfigError, match="name the layers"):
        extractor(model, mesh(), tokens="patch", norm=False)


def test_sides_off_the_grid(model):
    check_side(model, 224, "size")
    with pytest.raises(
        ConfigError, match="crop is 30, tiny has patches of 4 pixels; take 28 or 32"
    ):
        check_side(model, 30, "crop")
    with pytest.raises(ConfigError, match=r"size is 3, .*; take 4"):
        check_side(model, 3, "size")
