import numpy as np
import pytest
from sklearn.datasets import load_sample_image


@pytest.fixture(scope="session")
def photo():
    """A photograph, uint8 [120, 150, 3]."""
    return np.ascontiguousarray(load_sample_image("flower.jpg")[60:300:2, 150:450:2])
