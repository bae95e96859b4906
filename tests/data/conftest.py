import pytest

from configs.base import get_config
from dinov3_jax.config import from_config_dict


@pytest.fixture(scope="session")
def make_config():
    """The base recipe made tiny, changed by flat keys: ``make_config({"batch.images": 8})``."""

    def make(changes=()):
        config = get_config()
        config.update_from_flattened_dict(
            {
                "batch.images": 8,
                "batch.group": 2,
                "student.patch_size": 4,
                "crops.global_size": 16,
                "crops.local_size": 8,
                "crops.local_count": 3,
                "data.augment": "host",
                "data.threads": 2,
                "data.canvas": 24,
                **dict(changes),
            }
        )
        return from_config_dict(config)

    return make
