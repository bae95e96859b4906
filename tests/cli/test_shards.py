"""``dinov3 shards`` with a loop in place of Beam; marker beam: on Beam as well."""

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.cli import shards
from dinov3_jax.data import pack
from dinov3_jax.data.record import SourceError
from dinov3_jax.data.shards import open_shards
from dinov3_jax.data.sources import open_kind
from dinov3_jax.data.tfds import open_tfds
from tests.data.tiny_tfds import prepare


@pytest.fixture
def loop(monkeypatch):
    def write(settings, path, folder, numbers, flags):
        source = open_kind(settings.source, path, labels=settings.labels)
        for number in numbers:
            pack.write_shard(source, settings, number, folder)

    monkeypatch.setattr(shards, "write_shards_on_beam", write)


@pytest.fixture
def verb(loop, tmp_path):
    for i in range(5):
        path = tmp_path / "in" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 6, 3), 50 * i, np.uint8)).save(path)

    def run(*flags):
        folders = [f"--data={tmp_path}/in", f"--out={tmp_path}/out"]
        shards.run(["pack", *folders, "--labels=folders", "--shard-size=2", *flags])

    return run


def test_pack_inspect_verify(verb, tmp_path, capsys):
    verb("--longest=4")
    assert (
        "out: 5 images in 3 shards; 0 could not be read. Now: 3 shards in"
        in capsys.readouterr().out
    )
    verb("--longest=4")
    assert "out: all 3 shards are there already" in capsys.readouterr().out
    shards.run(["inspect", f"{tmp_path}/out"])
    said = capsys.readouterr().out
    for line in ("5 images in 3 shards", "height  4 to 4", "2 classes, of 2 to 3 images"):
        assert line in said
    shards.run(["verify", f"{tmp_path}/out"])
    assert "every shard is whole" in capsys.readouterr().out


def test_verify_names_all_damage(verb, tmp_path):
    verb("--seed=none")
    path = tmp_path / "out" / "00000.array_record"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (tmp_path / "out" / "00001.array_record").unlink()
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"total": 5', '"total": 6'))
    with pytest.raises(SourceError) as caught:
        shards.run(["verify", f"{tmp_path}/out"])
    flipped, missing, count = str(caught.value).split("\n")
    assert "00000.array_record has crc32" in flipped
    assert "00001.array_record is missing" in missing
    assert "counts 5 records in its shards, wanted the total, 6" in count


def check_tfds_and_shards_of_shards(tmp_path):
    """A set of TFDS becomes shards in its order, and these other shards, shuffled: same images."""
    prepared = prepare(str(tmp_path / "tfds"))
    first, second = f"{tmp_path}/first", f"{tmp_path}/second"
    given = [f"--data={prepared}:train", "--source=tfds", f"--out={first}"]
    shards.run(["pack", *given, "--shard-size=2", "--seed=none"])
    shards.run(["pack", f"--data={first}", "--source=shards", f"--out={second}", "--shard-size=4"])
    source, packed, again = open_tfds(f"{prepared}:train"), open_shards(first), open_shards(second)
    wanted = [source[i] for i in range(5)]
    assert [packed[i] for i in range(5)] == wanted
    shuffled = [again[i] for i in range(5)]
    assert shuffled != wanted
    assert sorted(shuffled, key=lambda record: record.id) == wanted
    for made in (packed, again):
        assert made.classes == source.classes == ("a", "b")
        assert made.labels.tolist() == [made[i].label for i in range(5)]
        shards.run(["verify", made.files[0].rpartition("/")[0]])
    assert [len(made.files) for made in (packed, again)] == [3, 2]


def test_tfds_and_shards_are_packed(loop, tmp_path):
    check_tfds_and_shards_of_shards(tmp_path)


@pytest.mark.beam
@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_tfds_and_shards_are_packed_on_beam(tmp_path):
    check_tfds_and_shards_of_shards(tmp_path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pack", "--data=x"], "required: --out"),
        (["verify", "x", "--", "--runner=FlinkRunner"], "verify takes no flags of Beam"),
        (["pack", "--data=x", "--out=y", "--source=zip"], "invalid choice: 'zip'"),
        (["pack", "--data=x", "--out=y", "--seed=x"], "'x'"),
    ],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit):
        shards.run(argv)
    assert message in capsys.readouterr().err
