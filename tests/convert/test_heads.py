import jax
import numpy as np
import pytest

from dinov3_jax import heads
from dinov3_jax.convert import files
from dinov3_jax.convert.heads import dpt_from_official, dpt_to_official
from dinov3_jax.convert.official import flatten
from dinov3_jax.models.depth import head_shapes
from dinov3_jax.models.dpt import CHMV2, SYNTHMIX
from tests.models.dpt import TINY, drawn_head

# Shapes of some tensors of the published files, and of all parameters together.
PUBLISHED = {
    "synthmix": (
        SYNTHMIX,
        230_687_776,
        {
            "reassemble_blocks.projects.3.conv.weight": (2048, 4096, 1, 1),
            "reassemble_blocks.resize_layers.0.weight": (2048, 2048, 4, 4),
            "reassemble_blocks.resize_layers.3.weight": (2048, 2048, 3, 3),
            "reassemble_blocks.batchnorm_layers.0.running_var": (4096,),
            "convs.2.conv.weight": (512, 2048, 3, 3),
            "fusion_blocks.3.project.conv.bias": (512,),
            "fusion_blocks.1.res_conv_unit1.conv2.conv.weight": (512, 512, 3, 3),
            "project.conv.weight": (512, 512, 3, 3),
            "conv_depth.head.2.weight": (32, 256, 3, 3),
        },
    ),
    "chmv2": (
        CHMV2,
        33_747_200,
        {
            "reassemble_blocks.readout_projects.0.0.weight": (1024, 2048),
            "reassemble_blocks.projects.1.conv.weight": (256, 1024, 1, 1),
            "fusion_blocks.0.res_conv_unit2.conv1.conv.bias": (256,),
            "conv_depth.head.0.weight": (128, 256, 3, 3),
            "conv_depth.head.4.weight": (256, 128, 1, 1),
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """Abstractly: names and shapes of the official files, without their numbers."""
    config, parameters, some = PUBLISHED[name]
    empty = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), head_shapes(config))
    got = {key: value.shape for key, value in dpt_to_official(empty).items()}
    assert {key: got[key] for key in some} == some
    assert not [key for key in got if key.startswith("fusion_blocks.0.res_conv_unit1")]
    counted = [shape for key, shape in got.items() if "running" not in key]
    assert sum(int(np.prod(shape)) for shape in counted) == parameters


@pytest.mark.parametrize("name", TINY)
def test_round_trip_is_exact(name):
    head = drawn_head(TINY[name])
    state = dpt_to_official(head.params)
    counts = {f"reassemble_blocks.batchnorm_layers.{i}.num_batches_tracked": 7 for i in range(4)}
    back = dpt_from_official(state | counts, head_shapes(head.config))
    wanted = flatten(head.params)
    assert flatten(back).keys() == wanted.keys()
    for path, value in flatten(back).items():
        np.testing.assert_array_equal(value, wanted[path], err_msg=path)


def test_misfits_are_named():
    like = head_shapes(TINY["chmv2"])
    state = dpt_to_official(drawn_head(TINY["chmv2"]).params)
    state["swirl.weight"] = state.pop("convs.1.conv.weight")
    state["conv_depth.head.4.bias"] = np.zeros(9, np.float32)
    with pytest.raises(ValueError, match=r"convs\.1\.conv\.weight is missing") as caught:
        dpt_from_official(state, like)
    assert "swirl.weight is left over" in str(caught.value)
    assert "conv_depth.head.4.bias gives (9,), the head has (16,) at conv3/bias" in str(
        caught.value
    )


def save(path, state):
    path.unlink(missing_ok=True)
    files.write(path, state, {})
    return path


def test_a_depth_head_of_a_file(tmp_path):
    head = drawn_head(TINY["synthmix"])
    path = save(tmp_path / "head.safetensors", dpt_to_official(head.params))
    got = heads.load_depth_head(head.config, path)
    jax.tree.map(np.testing.assert_array_equal, got.params, head.params)
    with pytest.raises(ValueError, match=r"tensors do not fit the depth head: .* and 78 more"):
        heads.load_depth_head("dinov3_vitl16_chmv2", path)
    with pytest.raises(ValueError, match="no depth head 'dd'; wanted one of dinov3_vit7b16_dd"):
        heads.load_depth_head("dd", path)
    (tmp_path / "head.npz").touch()
    with pytest.raises(ValueError, match="no file of weights that is known"):
        heads.load_depth_head(head.config, tmp_path / "head.npz")


def test_a_classifier_of_a_file(tmp_path):
    state = {"weight": np.random.default_rng(0).random((10, 32), np.float32), "bias": np.ones(10)}
    got = heads.load_classifier(save(tmp_path / "linear.safetensors", state))
    np.testing.assert_array_equal(got["kernel"], state["weight"].T)
    assert got["bias"].shape == (10,)
    for wrong in ({"weight": state["weight"]}, {"kernel": state["weight"], "bias": np.ones(10)}):
        with pytest.raises(ValueError, match=r"wanted weight \[K, F\] and bias \[K\], got"):
            heads.load_classifier(save(tmp_path / "wrong.safetensors", wrong))
