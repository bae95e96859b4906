"""``dinov3 curate``: flags and recipe to the call; what the stages do is tested below."""

import pytest

from dinov3_jax.cli import curate as verb
from dinov3_jax.config import ConfigError
from dinov3_jax.data.shards import write_shards
from dinov3_jax.data.sources import open_kind
from tests.curate.pools import write_colours

# How ml_collections imports a recipe.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


class Done:
    rows = range(3)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Arguments with which the verb calls ``curate``."""
    calls = []
    monkeypatch.setattr(verb, "open_model", lambda options: options.model)
    monkeypatch.setattr(verb, "curate", lambda *args, **rest: calls.append(args) or Done)
    write_colours(tmp_path / "pool", (3, 2), copies=0)

    def call(*flags, pool="pool"):
        verb.run(
            [
                f"--pool={tmp_path}/{pool}",
                "--model=m",
                "--recipe=configs/curation/tiny.py",
                f"--out={tmp_path}/out",
                *flags,
            ]
        )
        return calls[-1]

    return call


def test_flags(call, tmp_path, capsys):
    model, pool, seeds, against, recipe, out = call(
        f"--seeds=a={tmp_path}/pool/c0",
        f"--seeds=b.2={tmp_path}/pool/c1/*.png",
        f"--against={tmp_path}/pool/c1",
        "--labels=folders",
        "--config.sample.budget=77",
    )
    assert (model, out) == ("m", f"{tmp_path}/out")
    assert (pool.kind, pool.labels, pool.source.classes) == ("folder", "folders", ("c0", "c1"))
    assert {name: len(source) for name, source in seeds.items()} == {"a": 3, "b.2": 2}
    assert [len(source) for source in against] == [2]
    assert (recipe.name, recipe.sample.budget) == ("tiny", 77)
    said = capsys.readouterr().out
    assert f"3 of 5 images; open {tmp_path}/out/report.html, train on {tmp_path}/out/shards" in said
    call("--config.pack=None")
    assert f"on {tmp_path}/out/manifest.jsonl (data.source = 'curated')" in capsys.readouterr().out


def test_shards_are_known_by_their_manifest(call, tmp_path):
    files = open_kind("folder", str(tmp_path / "pool"), labels="none")
    write_shards((files[i] for i in range(len(files))), str(tmp_path / "shards"))
    assert call(pool="shards")[1].kind == "shards"
    assert call("--pool-kind=shards", pool="shards")[1].kind == "shards"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds=folder"], "--seeds=folder is not NAME=PATH"),
        (["--seeds=a/b=folder"], "--seeds=a/b=folder is not NAME=PATH"),
        (["--config.sample.buget=3"], "buget"),
        (["--config.sample.budget=many"], "many"),
    ],
)
def test_mistakes(call, flags, message):
    with pytest.raises(ConfigError, match=message):
        call(*flags)


def test_a_seed_set_given_twice(call, tmp_path):
    with pytest.raises(ConfigError, match="names a twice"):
        call(f"--seeds=a={tmp_path}/pool", f"--seeds=a={tmp_path}/pool/c0")


def test_a_share_of_the_embedding(call, monkeypatch, capsys):
    shares = []
    monkeypatch.setattr(verb, "embed_sources", lambda *args, share, **rest: shares.append(share))
    with pytest.raises(IndexError):  # ``curate`` is not called
        call("--embed-share=2/8")
    assert shares == [(2, 8)]
    for text in ("8/8", "2", "a/b"):
        with pytest.raises(SystemExit):
            call(f"--embed-share={text}")
    assert "wanted I/N with I from 0 to N - 1" in capsys.readouterr().err


def test_processes_that_have_found_each_other_need_no_share(call, monkeypatch):
    monkeypatch.setattr(verb.jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="leave it out, and each embeds its share"):
        call("--embed-share=0/2")
