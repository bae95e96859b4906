import numpy as np
from PIL import Image

from dinov3_jax.evals.tracking.overlay import paint, palette, palette_image


def test_the_usual_palette():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128)}
    known |= {8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    for number, colour in known.items():
        assert tuple(palette()[number].tolist()) == colour
    assert len(np.unique(palette(), axis=0)) == 256


def test_objects_are_half_in_their_colour_and_background_stays():
    frame = np.full((1, 3, 3), 100, np.uint8)
    painted = paint(frame, np.array([[0, 1, 2]]))
    assert painted.tolist() == [[[100, 100, 100], [114, 50, 50], [50, 114, 50]]]


def test_a_palette_png_holds_the_numbers(tmp_path):
    numbers = np.array([[0, 1], [2, 200]])
    palette_image(numbers).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), numbers)
