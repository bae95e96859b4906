import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.check import check_config


@pytest.mark.parametrize("augment", ["host", "device"])
def test_the_base_recipe_passes(make_config, augment):
    check_config(make_config({"data.augment": augment}), process_count=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crops.global_size": 18}, "crops.global_size is 18, not a multiple .* 4; take 16 or 20"),
        ({"crops.local_size": 3}, "crops.local_size is 3, not a multiple .* 4; take 4"),
        ({"batch.images": 9}, "batch.images is 9, wanted whole groups .* a multiple of 2"),
        ({"batch.group": 0}, "batch.group is 0, wanted at least 1"),
        ({"data.augment": "gpu"}, "data.augment is 'gpu', wanted 'host' or 'device'"),
        ({"data.workers": -1}, "data.workers is -1"),
        ({"data.threads": 0}, "data.threads is 0, wanted at least 1"),
        ({"data.buffer": 0}, "data.buffer is 0"),
        ({"data.canvas": 0}, "data.canvas is 0"),
        ({"crops.local_count": -1}, "crops.local_count is -1"),
        ({"student.in_channels": 1}, "student.in_channels is 1, but images are read as RGB"),
        ({"crops.global_scale": (0.5, 1.5)}, "crops.global_scale is "),
        ({"crops.local_scale": (0.0, 0.5)}, "crops.local_scale is "),
        ({"crops.blur_sigma": (0.0, 2.0)}, "crops.blur_sigma is "),
        ({"ibot.mask_ratio": (0.5, 0.1)}, "ibot.mask_ratio is "),
        ({"ibot.mask_probability": 1.5}, "ibot.mask_probability is 1.5"),
    ],
)
def test_misfits_are_named(make_config, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_config(make_config(changes))


def test_groups_must_divide_over_processes(make_config):
    with pytest.raises(ConfigError, match="on each of 3 processes: a multiple of 6"):
        check_config(make_config(), process_count=3)
