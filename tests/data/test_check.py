import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.check import check_config


@pytest.mark.parametrize("augment", ["host", "device"])
def test_the_base_recipe_passes(make_config, augment):
    check_config(make_config({"data.augment": augment}))


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
        ({"student.arch": "convnext_tiny"}, "global_size is 16, .* stride 32 of student.arch conv"),
    ],
)
def test_misfits_are_named(make_config, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_config(make_config(changes))


GRAM = {"gram.teacher": "checkpoint"}


@pytest.mark.parametrize(
    "changes",
    [
        GRAM,
        {**GRAM, "crops.gram_size": 16},
        {**GRAM, "crops.gram_size": 24, "crops.gram_distortions": False},
        {"gram.teacher": "ema", "crops.gram_distortions": False},  # nothing to distort
        {**GRAM, "crops.mixture": ((16, 8, 24, 0.0), (24, 12, None, 2.0))},
        {"crops.mixture": ((12, 8, None, 1),), "data.augment": "device"},
        {"distill.resolution_scale": 2.0},
        {"distill.resolution_scale": 1.6, "distill.backbone.patch_size": 5},
        # Evaluations alone use 16 pixels here, and 16 / 1.5 is no teacher's resolution.
        {"distill.resolution_scale": 1.5, "crops.mixture": ((12, 8, None, 1.0),)},
        {"student.arch": "convnext_tiny", "crops.global_size": 64, "crops.local_size": 32},
    ],
)
def test_sizes_that_fit_together(make_config, changes):
    check_config(make_config(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"crops.gram_size": 24},
            "gram_size is 24, but config.gram is None; set the size to None",
        ),
        ({**GRAM, "crops.gram_size": 0}, "crops.gram_size is 0, wanted at least 1"),
        (
            {**GRAM, "crops.gram_size": 12},
            "12, smaller than crops.global_size 16; take at least 16",
        ),
        ({**GRAM, "crops.gram_size": 22}, "gram_size is 22, not a multiple .* 4; take 20 or 24"),
        (
            {"gram.teacher": "ema", "crops.gram_size": 24},
            "gram_size is 24, but gram.teacher is 'ema'",
        ),
        (
            {**GRAM, "crops.gram_distortions": False},
            "gram_distortions is False, but without crops.gram_size .*; set it, to 16 or more",
        ),
        ({"distill.resolution_scale": 0.0}, "distill.resolution_scale is 0.0, wanted above 0"),
        (
            {"distill.resolution_scale": 1.5},
            "global_size is 16, for the teacher 10.6667 .* 1.5.*backbone.patch_size 4; take .* 6",
        ),
        ({"distill.backbone.patch_size": 5}, "for the teacher 16 .*; take a multiple of 5"),
        (
            {"data.augment": "device", "crops.global_size": 32},
            "crops.global_size is 32, larger than data.canvas 24, .* data.canvas to at least 32",
        ),
    ],
)
def test_sizes_that_do_not(make_config, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_config(make_config(changes))


@pytest.mark.parametrize(
    ("mixture", "changes", "message"),
    [
        ((), {}, "crops.mixture is empty"),
        (
            ((16, 8, None, -1.0), (16, 8, None, 2.0)),
            {},
            r"the shares \[-1.0, 2.0\], wanted none bel",
        ),
        (((16, 8, None, 0.0),), {}, r"the shares \[0.0\], wanted .* a sum above 0"),
        (
            ((16, 8, None, 1.0), (0, 8, None, 1.0)),
            {},
            r"mixture\[1\] global size is 0, wanted at l",
        ),
        (((18, 8, None, 1.0),), {}, r"mixture\[0\] global size is 18, .* 4; take 16 or 20"),
        (((16, 10, None, 1.0),), {}, r"mixture\[0\] local size is 10, not a multiple"),
        (((16, 8, 18, 1.0),), GRAM, r"mixture\[0\] gram size is 18, not a multiple"),
        (((16, 8, 12, 1.0),), GRAM, r"\[0\] gram size is 12, smaller than .*\[0\] global size 16"),
        (((16, 8, 24, 1.0),), {}, r"mixture\[0\] gram size is 24, but config.gram is None"),
        (
            ((16, 8, 24, 1.0),),
            {"gram.teacher": "ema"},
            r"\[0\] gram size is 24, but gram.teacher is",
        ),
        (
            ((16, 8, 24, 1.0), (16, 8, None, 1.0)),
            {**GRAM, "crops.gram_distortions": False},
            r"gram_distortions is False, but without crops.mixture\[1\] gram size",
        ),
        (
            ((16, 8, 28, 1.0),),
            {**GRAM, "data.augment": "device"},
            r"mixture\[0\] gram size is 28, larger than data.canvas 24",
        ),
        (
            ((12, 8, None, 1.0), (16, 8, None, 1.0)),
            {"distill.resolution_scale": 1.5},
            r"mixture\[1\] global size is 16, for the teacher 10.6667",
        ),
    ],
)
def test_mixtures_that_cannot_run(make_config, mixture, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_config(make_config({**changes, "crops.mixture": mixture}))
