"""``dinov3 view`` with a tiny model in place of the one that is named."""

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.cli import view
from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.matches import open_matches
from dinov3_jax.data.sources import SourceError
from tests.features.models import convnext, images, vit


@pytest.fixture(scope="module")
def model():
    return vit(patch_size=8)


@pytest.fixture
def verb(model, monkeypatch, tmp_path):
    def verb(kind, *arguments, model=model):
        monkeypatch.setattr(view, "open_model", lambda options: model)
        view.run([kind, *arguments, "--model=tiny", f"--out={tmp_path}/out"])
        return {
            path.name: np.asarray(Image.open(path)) for path in (tmp_path / "out").glob("*.png")
        }

    return verb


def save(path, height=40, width=64, seed=0):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(images(1, height, width, seed=seed)[0]).save(path)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    return save(tmp_path / "photo.png")


def test_pca_of_several_images_of_several_shapes(verb, photo, tmp_path, capsys):
    other = save(tmp_path / "sub/photo.png", 30, 20, seed=1)
    made = verb("pca", photo, other, "--size=64", "--foreground=none")
    assert sorted(made) == ["0_photo_pca.png", "1_photo_pca.png"]
    assert made["0_photo_pca.png"].shape == (40, 64 + 2 + 64, 3)
    assert made["1_photo_pca.png"].shape == (64, 40 + 2 + 40, 3)
    assert "photo.png: 30 x 20 pixels, seen at 64 x 40 as 8 x 5 patches" in capsys.readouterr().out
    blocks = made["0_photo_pca.png"][:, 66:].reshape(5, 8, 8, 8, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()  # one colour a patch
    assert len(np.unique(blocks[:, 0, :, 0].reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize(
    ("size", "seen"), [("none", (40, 64)), ("50x30", (48, 32)), ("102", (64, 104)), ("8", (8, 8))]
)
def test_any_size_goes_to_the_grid(verb, photo, size, seen):
    made = verb("pca", photo, f"--size={size}", "--upscale=bicubic")
    assert made["photo_pca.png"].shape == (seen[0], 2 * seen[1] + 2, 3)


def test_similarity_is_1_at_the_point_and_shows_it_in_the_first_image_alone(verb, tmp_path):
    """Two halves, black and white: the heat is bright on the side of the point."""
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    Image.fromarray(halves).save(tmp_path / "a.png")
    Image.fromarray(halves).save(tmp_path / "b.png")
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    made = verb("similarity", *files, "--size=none", "--point=60,60", "--point=2,60")
    assert sorted(made) == [f"{n}_similarity_{x}_60.png" for n in "ab" for x in (2, 60)]
    heat = made["b_similarity_60_60.png"][:, 66:].astype(int)
    # Half of the magma map's last colour (252, 253, 191) over the white half.
    np.testing.assert_array_equal(heat[60, 60], [254, 254, 223])
    np.testing.assert_array_equal(made["b_similarity_60_60.png"][:, :64], halves)
    changed = (made["a_similarity_60_60.png"][:, :64] != halves).any(axis=-1)
    assert changed[50:, 50:].any()
    assert not changed[:50, :50].any()


def test_similarity_defaults_to_the_centre(verb, photo):
    assert list(verb("similarity", photo, "--size=64")) == ["photo_similarity_32_20.png"]


def test_attention_draws_each_head_and_the_mean(verb, photo):
    made = verb("attention", photo, "--size=64")
    wanted = [f"photo_attention_block01_{name}.png" for name in ("head00", "head01", "mean")]
    assert sorted(made) == wanted
    assert {x.shape for x in made.values()} == {(40, 130, 3)}
    assert "photo_attention_block00_mean.png" in verb("attention", photo, "--layer=0")


def test_exif_grey_and_alpha_go_through(verb, tmp_path):
    photo = Image.fromarray(images(1, 40, 64)[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    photo.convert("L").save(tmp_path / "grey.png")
    photo.convert("RGBA").save(tmp_path / "alpha.png")
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    files = [str(path) for path in tmp_path.iterdir() if path.suffix]
    made = verb("pca", *files, "--size=none")
    assert made.pop("turned_pca.png").shape == (64, 82, 3)
    assert {x.shape for x in made.values()} == {(40, 130, 3)}
    assert len(made) == 3


def test_a_convnext_has_no_attention(verb, photo):
    with pytest.raises(ConfigError, match="tiny_convnext is a ConvNeXt, which has no attention"):
        verb("attention", photo, "--size=64", model=convnext())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["similarity", "--point=64,5"], ConfigError, r"--point=64,5 is outside .*photo\.png"),
        (["attention", "--layer=2"], ConfigError, "layer 2 is asked of tiny, which has 2 blocks"),
        (["pca", "--size=4"], ConfigError, "--size has 4 pixels a side, below a patch of 8"),
        (["pca", "{small}", "--size=none"], SourceError, r"small\.png: image of 5 x 64 pixels"),
        (["pca", "{text}"], SourceError, r"notes\.txt: unreadable image of 5 bytes"),
        (["pca", "no.png"], SourceError, r"no\.png: .*No such file"),
    ],
)  # fmt: skip
def test_mistakes(verb, photo, tmp_path, arguments, error, message):
    (tmp_path / "notes.txt").write_text("hello")
    small = save(tmp_path / "small.png", 5, 64)
    kind, *rest = [a.format(small=small, text=tmp_path / "notes.txt") for a in arguments]
    with pytest.raises(error, match=message):
        verb(kind, photo, *rest)
    assert not (tmp_path / "out").exists()


def test_options_of_another_kind_are_refused(verb, photo, capsys):
    for arguments in (["pca", photo, "--point=1,2"], ["similarity", photo, "--point=left"]):
        with pytest.raises(SystemExit):
            verb(*arguments)
    said = capsys.readouterr().err
    assert "unrecognized arguments: --point=1,2" in said
    assert "'left' is no point; wanted X,Y" in said


def test_match_draws_lines_between_two_images(verb, photo, tmp_path, capsys):
    """Equal images: level lines, from each patch to itself."""
    other = tmp_path / "other.png"
    other.write_bytes((tmp_path / "photo.png").read_bytes())
    made = verb("match", photo, str(other), "--size=64", "--distance=0", "--count=100")
    assert list(made) == ["photo_match_other.png"]
    picture = made["photo_match_other.png"]
    assert picture.shape == (40, 64 + 6 + 64, 3)
    assert "40 matches, 40 drawn, of cosine 1.000" in capsys.readouterr().out
    gap = (picture[:, 64:70] != 255).any(axis=-1)
    assert gap.any(axis=1).sum() >= 5  # a row of patches each
    assert (gap == gap[:, :1]).all()  # level
    verb("match", photo, str(other), "--size=64", "--affine=0.5", "--foreground=auto", "--one-way")
    assert "matches" in capsys.readouterr().out


def test_match_writes_the_points_that_an_evaluation_reads(verb, photo, tmp_path, capsys):
    """In pixels of the files: 40 x 64, seen at twice that; the other 80 x 128, seen as it is."""
    other = tmp_path / "other.png"
    Image.open(photo).resize((128, 80), Image.Resampling.BILINEAR).save(other)
    verb("match", photo, str(other), "--size=128", "--distance=0", "--count=500")
    path = tmp_path / "out" / "photo_match_other.csv"
    assert str(path) in capsys.readouterr().out
    (pair,) = open_matches(str(path))
    assert (str(pair.a), pair.b) == (photo, other)
    assert len(pair.points_a) == 160  # the images are the same to the model
    np.testing.assert_array_equal(2 * pair.points_a, pair.points_b)
    places = {(x, y) for x, y in pair.points_a.tolist()}
    assert places == {(4 * x + 2, 4 * y + 2) for x in range(16) for y in range(10)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{other}", "{other}"], "3 image"),
        (["{other}", "--count=0"], "--count=0"),
        (["{other}", "--distance=-1"], "--distance=-1"),
        (["{other}", "--size=8", "--affine=1"], "--affine needs at least 4 matches"),
    ],
)
def test_mistakes_of_match(verb, photo, tmp_path, arguments, message):
    other = save(tmp_path / "other.png")
    with pytest.raises(ConfigError, match=message):
        verb("match", photo, *(argument.format(other=other) for argument in arguments))


def test_points_on_a_line_have_no_affine_map(verb, tmp_path):
    strips = [save(tmp_path / f"{name}.png", 8, 64) for name in "ab"]
    with pytest.raises(ConfigError, match="no affine map explains 3 of 8 matches"):
        verb("match", *strips, "--size=none", "--affine=1")
