"""The page tells the numbers of the curation; how it looks is for eyes."""

import re

import numpy as np
import pytest

from dinov3_jax.curate import stages
from dinov3_jax.curate.embeddings import Embedded, UnitRows
from dinov3_jax.curate.report import Curated, write_report
from dinov3_jax.data.sources import open_kind
from tests.curate.pools import recipe, write_colours

ROWS = 47


@pytest.fixture
def pool(tmp_path):
    """Colours as points: 47 images, of which the 3 copies are dropped."""
    write_colours(tmp_path / "pool")
    source = open_kind("folder", str(tmp_path / "pool"), labels="folders")
    points = np.eye(4, dtype=np.float32)[source.labels] + 0.01 * np.arange(ROWS)[:, None]
    rows = np.arange(ROWS)
    unreadable = [("x.jpg", "torn <here>")]
    pool = Embedded(UnitRows([points], rows), rows, rows, list(source.files), unreadable, "")
    groups = rows.copy()
    groups[[24, 25, 26]] = [0, 1, 2]  # c0/copy0.png ... are those of c0/00.png ...
    kept = np.flatnonzero(groups == rows)
    clusters = source.labels[kept]
    tree = stages.Tree([np.eye(4)], [clusters])
    balanced = np.concatenate([kept[clusters == c][:4] for c in range(4)])
    chosen = {"balanced": np.sort(balanced), "retrieved:x": kept[:1]}
    dedup = stages.Deduplicated(kept, groups, np.zeros(ROWS, bool), pool.points)
    return Curated(pool, dedup, tree, chosen, np.unique(balanced)), source


def test_numbers_of_the_page(pool, tmp_path):
    curated, source = pool
    write_report(tmp_path / "a.html", curated, source, recipe(), "folder pool")
    text = (tmp_path / "a.html").read_text()
    # ln 4 minus the entropy of 24, 10, 6, 4 of 44 is 0.229; then there are four of each.
    assert "KL to uniform 0.229 → <b>0.000</b>" in text
    assert "smallest, median, largest: 4, 8, 24 → 4, 4, 4" in text
    assert "57.4 % (27)<br>25.0 % (4)" in text  # c0, copies and all
    assert "3 near-duplicates (cosine above 0.999999)" in text
    assert text.count("dropped, cosine") == 3
    assert "<code>x.jpg</code>: torn &lt;here&gt;" in text
    assert "<dt>retrieved:x</dt><dd>1</dd>" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)  # nothing is fetched
    write_report(tmp_path / "b.html", curated, source, recipe(), "folder pool")
    assert (tmp_path / "b.html").read_bytes() == (tmp_path / "a.html").read_bytes()


def test_a_pool_without_labels_has_no_class_balance(pool, tmp_path):
    plain = open_kind("folder", str(tmp_path / "pool"), labels="none")
    write_report(tmp_path / "a.html", pool[0], plain, recipe(), "folder pool")
    assert "Class balance" not in (tmp_path / "a.html").read_text()
