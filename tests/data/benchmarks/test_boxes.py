import numpy as np
import pytest

from dinov3_jax.data.benchmarks.boxes import open_boxes
from dinov3_jax.data.sources import SourceError
from tests.data.benchmarks.boxed import BOXES, LAYOUTS, rectangles, write_boxes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_boxes(tmp_path, layout):
    """VOC counts from 1 and keeps what is difficult; COCO's crowds are left out."""
    data = open_boxes(str(write_boxes(tmp_path, layout)), "trainval")
    assert len(data) == 3
    for i, box in enumerate(BOXES):
        np.testing.assert_array_equal(data.boxes[i], [box])
        # JPEG at quality 95 moves noise by a few levels.
        np.testing.assert_allclose(data.image(i)[:4, :4], rectangles()[i][:4, :4], atol=40)


def test_several_boxes_of_one_image_and_fractions(tmp_path):
    write_boxes(tmp_path, "own")
    with open(tmp_path / "boxes.csv", "a") as file:
        file.write("0.png,0.5,1,2.25,3\n")
    data = open_boxes(str(tmp_path), "any")
    assert len(data) == 3
    assert data.boxes[0].tolist() == [list(BOXES[0]), [0.5, 1, 2.25, 3]]


def test_an_image_that_the_list_does_not_name_has_no_box(tmp_path):
    write_boxes(tmp_path, "own")
    lines = (tmp_path / "boxes.csv").read_text().splitlines()
    (tmp_path / "boxes.csv").write_text("\n".join([lines[0], *lines[2:]]))
    data = open_boxes(str(tmp_path), "any")
    assert [len(boxes) for boxes in data.boxes] == [0, 1, 1]
    assert data.boxes[0].shape == (0, 4)


def append(path, text):
    with open(path, "a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("layout", "break_", "message"),
    [
        ("own", lambda p: append(p / "boxes.csv", "0.png,1,2,3\n"), r"boxes\.csv, line 5: "),
        ("own", lambda p: append(p / "boxes.csv", "0.png,1,2,x,4\n"), "line 5: .* float: 'x'"),
        ("own", lambda p: append(p / "boxes.csv", "0.png,3,2,1,4\n"), "box 3,2,1,4; wanted 0 <="),
        ("own", lambda p: append(p / "boxes.csv", "0.png,nan,2,1,4\n"), "box nan,2,1,4; wanted"),
        ("own", lambda p: append(p / "boxes.csv", "9.png,0,0,1,1\n"), r"images/9\.png is listed"),
        ("own", lambda p: (p / "boxes.csv").write_text("a,b\n"), r"header \['a', 'b'\], wanted"),
        ("own", lambda p: (p / "boxes.csv").unlink(), r"no boxes in .*wanted\n  boxes\.csv"),
        ("voc", lambda p: (p / "Annotations/1.xml").write_text("<a>"), r"1\.xml cannot be read"),
        ("voc", lambda p: (p / "ImageSets/Main/trainval.txt").unlink(), "give another split"),
        ("voc", lambda p: (p / "ImageSets/Main/trainval.txt").write_text(""), "lists no image"),
        ("coco", lambda p: (p / "annotations/instances_val2014.json").unlink(), "no .*val2014"),
    ],
)
def test_broken_layouts(tmp_path, layout, break_, message):
    write_boxes(tmp_path, layout)
    break_(tmp_path)
    with pytest.raises(SourceError, match=message):
        open_boxes(str(tmp_path), "trainval")
