import dataclasses
import errno
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data.folder import FolderSource
from dinov3_jax.data.record import Record
from dinov3_jax.data.shards import write_shards
from dinov3_jax.data.sources import SourceError, open_images
from dinov3_jax.features import job
from dinov3_jax.features.extract import extractor
from dinov3_jax.features.job import write_features
from dinov3_jax.features.store import Settings, read_features, read_parts
from tests.features.models import images, mesh, vit, write_images

SETTINGS = Settings(
    tokens="cls+patch",
    layers=None,
    size=(8, 12),
    fit="resize",
    dtype="float32",
    format="npz",
    part=4,
)


@pytest.fixture(scope="module")
def model():
    return vit()


@pytest.fixture
def write(model, tmp_path):
    def write(folder, out="out", **changes):
        chosen = dataclasses.replace(SETTINGS, **changes)
        source = open_images(str(folder))
        return write_features(model, source, tmp_path / out, chosen, mesh=mesh(), batch=2)

    return write


def test_features_in_the_order_of_the_source(model, write, tmp_path):
    pixels = write_images(tmp_path / "images", 10)
    assert write(tmp_path / "images") == (10, 0, 10, 0.0)
    paths, got = read_features(tmp_path / "out")
    assert paths == [f"{i:02d}.png" for i in range(10)]
    wanted = extractor(model, mesh(), tokens="cls+patch", batch=2)(pixels)
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name])
    lines = [
        json.loads(line)
        for file in sorted((tmp_path / "out").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert [line["path"] for line in lines] == paths
    assert lines[5] == {
        "path": "05.png", "part": 1, "file": "00001-8x12", "row": 1,
        "h": 2, "w": 3, "height": 8, "width": 12,
    }  # fmt: skip
    assert list(read_features(tmp_path / "out", ["cls"])[1]) == ["cls"]


def test_a_killed_run_goes_on(write, tmp_path, monkeypatch):
    write_images(tmp_path / "images", 10)
    write(tmp_path / "images", "whole")
    made, real = [], job.store.write_part

    def die_after_two(out, part, *rest, **options):
        if part == 2:
            (out / "00002-8x12.npz").write_bytes(b"torn")
            raise KeyboardInterrupt
        made.append(part)
        real(out, part, *rest, **options)

    monkeypatch.setattr(job.store, "write_part", die_after_two)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "images")
    with pytest.raises(ConfigError, match="has 2 of 3 parts; run the same"):
        read_features(tmp_path / "out")
    monkeypatch.setattr(job.store, "write_part", real)
    assert write(tmp_path / "images").computed == 2
    assert write(tmp_path / "images").computed == 0
    assert made == [0, 1]
    for a, b in zip(read_features(tmp_path / "whole"), read_features(tmp_path / "out")):
        assert str(a) == str(b)
    for file in (tmp_path / "whole").glob("*.npz"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_it_goes_on_only_with_the_same_images_and_settings(model, write, tmp_path):
    folder = tmp_path / "images"
    write_images(folder, 3)
    write(folder)
    with pytest.raises(ConfigError, match=r"holds other features \(tokens: 'cls\+patch' there, 'c"):
        write(folder, tokens="cls")
    with pytest.raises(ConfigError, match=r"size: \[8, 12\] there, \[8, 8\] now"):
        write(folder, size=(8, 8))
    other = (vit(seed=1), open_images(str(folder)), tmp_path / "out", SETTINGS)
    with pytest.raises(ConfigError, match=r"features \(weights: '\w+' there, '\w+' now\)"):
        write_features(*other, mesh=mesh(), batch=2)
    shutil.move(folder / "00.png", folder / "000.png")
    with pytest.raises(ConfigError, match=r"features \(listing of images: '\w+' there"):
        write(folder)
    write_images(folder, 5)
    with pytest.raises(ConfigError, match="images: 3 there, 6 now; listing of images"):
        write(folder)


def test_folders_of_something_else(write, tmp_path):
    write_images(tmp_path / "images", 1)
    with pytest.raises(ConfigError, match="images is there and holds no features; give a new"):
        write(tmp_path / "images", "images")
    with pytest.raises(ConfigError, match="gs://bucket/x is remote"):
        read_features("gs://bucket/x")
    with pytest.raises(ConfigError, match=r"there is no .*images/features\.json"):
        read_features(tmp_path / "images")
    write(tmp_path / "images")
    (tmp_path / "out" / "features.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        write(tmp_path / "images")


def test_a_broken_image_is_told_and_skipped(write, tmp_path, caplog):
    write_images(tmp_path / "images", 6)
    broken = tmp_path / "images" / "02.png"
    broken.write_bytes(broken.read_bytes()[:60])
    write_images(tmp_path / "whole", 6)
    assert write(tmp_path / "images").unreadable == 1
    assert "unreadable image 02.png, skipped: " in caplog.text
    assert write(tmp_path / "images") == (6, 1, 0, 0.0)  # known from the index
    write(tmp_path / "whole", "all")
    paths, got = read_features(tmp_path / "out")
    wanted = read_features(tmp_path / "all")[1]
    assert paths == [f"{i:02d}.png" for i in (0, 1, 3, 4, 5)]
    np.testing.assert_array_equal(got["cls"], np.delete(wanted["cls"], 2, axis=0))
    rows = next(read_parts(tmp_path / "out"))[0]
    assert rows[2]["path"] == "02.png"
    assert "unreadable image of 60 bytes" in rows[2]["error"]
    assert "row" not in rows[2]


def test_a_file_system_that_fails_stops_the_run(write, tmp_path, monkeypatch):
    """It says nothing of the images: none is left out, and the same command goes on."""
    write_images(tmp_path / "images", 10)
    write(tmp_path / "images", "whole")
    real = FolderSource.__getitem__

    def failing(source, index):
        if index == 6:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(source, index)

    monkeypatch.setattr(FolderSource, "__getitem__", failing)
    message = r"record 6 cannot be read: .*Stale file handle. Put this right and run the same"
    with pytest.raises(SourceError, match=message):
        write(tmp_path / "images")
    assert not (tmp_path / "out/00001.jsonl").exists()
    monkeypatch.setattr(FolderSource, "__getitem__", real)
    assert write(tmp_path / "images") == (10, 0, 6, 0.0)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("readable", [0, 2])
def test_more_than_half_broken(write, tmp_path, readable):
    write_images(tmp_path / "images", 5)
    for i in range(5 - readable):
        (tmp_path / "images" / f"{i:02d}.png").write_bytes(b"no image")
    for _ in range(2):  # a rerun does not make it better
        with pytest.raises(SourceError, match=rf"{5 - readable} of 5 images .* first is 00\.png"):
            write(tmp_path / "images", part=5)


def test_images_of_their_own_size_share_batches_by_shape(model, write, tmp_path):
    shapes = [(8, 12), (13, 8), (8, 12), (5, 21), (12, 8), (8, 12)]
    (tmp_path / "images").mkdir()
    for i, shape in enumerate(shapes):
        Image.fromarray(images(1, *shape, seed=i)[0]).save(tmp_path / "images" / f"{i}.png")
    done = write(tmp_path / "images", size=None, fit="pad")
    # Part 0: two of 8 x 12 and one of 16 x 8 and 8 x 24; part 1: one of 12 x 8 and 8 x 12.
    assert done == (6, 0, 6, 1 - 6 / 10)
    paths, got = read_features(tmp_path / "out")
    assert paths == [f"{i}.png" for i in range(6)]
    assert got["cls"].shape == (6, 16)
    grids = [x.shape[:2] for x in got["patch_tokens"]]
    assert grids == [(2, 3), (4, 2), (2, 3), (2, 6), (3, 2), (2, 3)]
    rows = [row for part, _ in read_parts(tmp_path / "out") for row in part]
    assert [(row["height"], row["width"]) for row in rows] == shapes
    extract = extractor(model, mesh(), tokens="cls", batch=2)
    np.testing.assert_array_equal(got["cls"][4:5], extract(images(1, 12, 8, seed=4))["cls"])


def test_a_picture_below_a_patch_is_skipped_as_unreadable(write, tmp_path):
    write_images(tmp_path / "images", 3)
    Image.fromarray(images(1, 3, 9)[0]).save(tmp_path / "images" / "03.png")
    assert write(tmp_path / "images", size=None).unreadable == 1
    rows = next(read_parts(tmp_path / "out"))[0]
    assert "3 x 9 pixels is smaller than a patch of 4 x 4" in rows[3]["error"]


def test_every_kind_of_picture_goes_through(model, write, tmp_path):
    """Grey, CMYK, palette, alpha, 16 bit, EXIF rotation: the features of what one sees."""
    folder = tmp_path / "images"
    folder.mkdir()
    photo = Image.fromarray(images(1)[0])
    photo.save(folder / "a_rgb.png")
    photo.convert("RGBA").save(folder / "b_alpha.png")
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen, turn it by 90 degrees clockwise
    turned.save(folder / "c_turned.png", exif=exif)
    photo.convert("L").save(folder / "d_grey.png")
    photo.convert("L").convert("RGB").save(folder / "e_grey_rgb.png")
    photo.convert("CMYK").save(folder / "f_cmyk.tif")
    photo.quantize(8).save(folder / "g_palette.png")
    Image.fromarray(np.uint16(images(1)[0, ..., 0]) << 8).save(folder / "h_wide.png")
    assert write(folder).unreadable == 0
    cls = read_features(tmp_path / "out")[1]["cls"]
    for same in (1, 2, 5):
        np.testing.assert_allclose(cls[same], cls[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cls[4], cls[3], rtol=1e-4, atol=1e-5)


def test_shards(write, tmp_path):
    pixels = write_images(tmp_path / "images", 3)
    records = []
    for i, image in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        records.append(Record(file.getvalue(), f"id {i}", None))
    write_shards(records, str(tmp_path / "shards"))
    write(tmp_path / "images", "a")
    write(tmp_path / "shards", "b", format="arrayrecord")
    paths, got = read_features(tmp_path / "b")
    assert paths == ["id 0", "id 1", "id 2"]
    np.testing.assert_array_equal(got["cls"], read_features(tmp_path / "a")[1]["cls"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (8, 10)}, "size 8 x 10 is no whole number of patches of 4 pixels; take 8 or 12"),
        ({"size": (3, 8)}, "take 4 instead of 3"),
        ({"fit": "stretch"}, "fit is 'stretch', wanted one of resize, crop, pad"),
        ({"part": 0}, "part is 0"),
        ({"format": "zarr"}, "format is 'zarr'"),
        ({"tokens": "all"}, "tokens are 'all'"),
        ({"layers": (7,)}, "which has 2 blocks"),
    ],
)
def test_settings_that_make_no_sense_leave_no_folder(write, tmp_path, changes, message):
    write_images(tmp_path / "images", 1)
    with pytest.raises(ConfigError, match=message):
        write(tmp_path / "images", **changes)
    assert not (tmp_path / "out").exists()
