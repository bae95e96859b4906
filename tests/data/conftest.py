import io

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from configs import base
from dinov3_jax.data.folder import open_folders
from dinov3_jax.recipe import from_config_dict


@pytest.fixture(scope="session")
def make_config():
    """The base recipe made tiny, changed by flat keys: ``make_config({"batch.images": 8})``.

    A key of the sections ``gram`` or ``distill`` adds the section.
    """

    def make(changes=()):
        config, changes = base.get_config(), dict(changes)
        config.update_from_flattened_dict(_TINY)
        for name, section in (("gram", base.gram()), ("distill", base.distill(config))):
            if any(key.startswith(f"{name}.") for key in changes):
                config[name] = section
        config.update_from_flattened_dict(changes)
        return from_config_dict(config)

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """11 small JPEGs of several sizes, of which number 4 is cut short."""
    root = tmp_path_factory.mktemp("images")
    photo = load_sample_image("flower.jpg")
    for i in range(11):
        height, width = 18 + 2 * i, 40 - 2 * i  # both sides of the canvas of 24
        part = Image.fromarray(photo[20 * i : 20 * i + height, 200 : 200 + width])
        buffer = io.BytesIO()
        part.save(buffer, "JPEG")
        data = buffer.getvalue()
        (root / f"{i:02d}.jpg").write_bytes(data[:300] if i == 4 else data)
    return str(root)


@pytest.fixture(scope="session")
def source(folder):
    return open_folders(folder, labelled=False)


_TINY = {
    "batch.images": 8,
    "batch.group": 2,
    "student.patch_size": 4,
    "crops.global_size": 16,
    "crops.local_size": 8,
    "crops.local_count": 3,
    "data.augment": "host",
    "data.threads": 2,
    "data.canvas": 24,
}
