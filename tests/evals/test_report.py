import base64
import dataclasses
import html.parser
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from configs.base import get_config
from dinov3_jax.evals.gallery import SHOWN
from dinov3_jax.evals.health import diagnose
from dinov3_jax.evals.report import Pictures, write_report
from dinov3_jax.evals.similarity import strip
from dinov3_jax.recipe import from_config_dict, to_dict

RNG = np.random.default_rng(0)
LABELS = np.arange(10) % 3


def pictures(side=20, n=10, m=12):
    return Pictures(
        images=RNG.integers(0, 256, (n, side, side, 3), dtype=np.uint8),
        patch_tokens=RNG.normal(size=(n, 4, 4, 8)).astype(np.float32),
        cls=RNG.normal(size=(n, 8)).astype(np.float32),
        bank_images=RNG.integers(0, 256, (m, side, side, 3), dtype=np.uint8),
        bank_cls=RNG.normal(size=(m, 8)).astype(np.float32),
        labels=np.arange(n) % 3,
        bank_labels=np.arange(m) % 3,
        classes=("cat", "dog", "<script>"),
    )


def rows(count=20):
    return [
        {
            "step": 10 * i,
            "loss/total": 9.0 - 0.1 * i,
            "loss/dino_global": 8.0,
            "lr": 1e-3,
        }
        for i in range(1, count + 1)
    ] + [
        {
            "step": 100 * i,
            "eval/knn": 20.0 * i,
            "health/rankme_cls": 9.0 * i,
            "loss/koleo": math.nan,
        }
        for i in (1, 2)
    ]


def write(tmp_path, **changes):
    arguments = {
        "metrics": rows(),
        "config": to_dict(from_config_dict(get_config())),
        "pictures": pictures(),
        "strips": {},
        "floors": {"random backbone": 31.0, "raw pixels": 48.5},
        "findings": [],
    }
    write_report(tmp_path / "report.html", **(arguments | changes))
    return (tmp_path / "report.html").read_text()


VOID = {"meta", "img", "path", "use", "br"}  # elements without an end tag


class Audit(html.parser.HTMLParser):
    """Tags that are opened and never closed, addresses that are used, ids."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.tags, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self.addresses += [attributes[a] for a in ("src", "href", "xlink:href") if a in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_page_is_whole_and_needs_no_network(tmp_path):
    audit = Audit(write(tmp_path))
    assert audit.open == []
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in audit.addresses)
    assert "script" not in audit.tags
    assert "link" not in audit.tags


def test_page_says_what_the_run_was(tmp_path):
    text = write(tmp_path)
    for word in (
        "vit_small",
        "200 of 125,000",
        "204,800",
        "k-NN accuracy",
        "40.0",
        "48.5 %",
    ):
        assert word in text, word
    assert f"ln 65536 <b>{math.log(65536):.4g}</b>" in text
    assert "&lt;script&gt;" in text  # a class name cannot write HTML
    assert "2 values are not finite" in text  # KoLeo is never finite here
    assert "Nothing found" in text


def test_sizes_of_the_recipe_stand_for_the_preset(tmp_path):
    recipe = get_config()
    recipe.student.embed_dim, recipe.student.depth = 128, 3
    text = write(tmp_path, config=to_dict(from_config_dict(recipe)))
    assert "ViT of 128 wide, 3 blocks, patch 16 px" in text
    assert "<dd>vit_small" not in text


def test_findings_are_escaped_and_overrides_stand_out(tmp_path):
    text = write(tmp_path, findings=["a < b: try `--config.optim.clip=1.0`."])
    assert "a &lt; b: try <code>--config.optim.clip=1.0</code>." in text
    assert "Nothing found" not in text


def test_without_labels_there_is_no_knn(tmp_path):
    bare = dataclasses.replace(pictures(), labels=None, bank_labels=None, classes=None)
    metrics = [{k: v for k, v in row.items() if k != "eval/knn"} for row in rows()]
    text = write(tmp_path, metrics=metrics, pictures=bare, floors={})
    assert "k-NN" not in text
    assert "✗" not in text
    assert "Nearest images" in text


def test_evaluations_of_the_suite_are_drawn(tmp_path):
    assert "<h2>Evaluations</h2>" not in write(tmp_path)
    # Beside an evaluation with a label, one that is no more.
    values = {"eval/knn/top1": 10.0, "eval/davis@480/J&F": 30.0, "eval/gone/top1": 1.0}
    measured = [{"step": i} | {name: i * x for name, x in values.items()} for i in (1, 2)]
    text = write(tmp_path, metrics=rows() + measured)
    assert "<h2>Evaluations</h2>" in text
    assert "top1 <b>20</b>" in text
    assert "<h3>davis@480</h3>" in text
    assert "J&amp;F <b>60</b>" in text
    assert "gone" not in text


@pytest.mark.parametrize("value", [8.0, math.nan, None])
def test_one_row(tmp_path, value):
    metrics = [{"step": 0, "loss/total": value, "loss/dino_global": 8.3}]
    findings = diagnose(metrics[0], prototypes=4096, ibot_prototypes=4096)
    audit = Audit(write(tmp_path, metrics=metrics, floors={}, findings=findings))
    assert audit.open == []


def test_features_that_are_not_finite_are_said_to_be(tmp_path):
    broken = pictures()
    broken.patch_tokens[0] = np.nan
    broken.cls[0] = np.nan
    text = write(tmp_path, pictures=broken)
    assert "patch features are not finite" in text
    assert "image features are not finite" in text


def test_small_pictures_are_enlarged_by_whole_pixels(tmp_path):
    shown = pictures(side=20)
    text = write(tmp_path, pictures=shown)
    data = re.findall(r"base64,([^\"]+)\" width=\"(\d+)\"[^>]*alt=\"neighbour\"", text)
    assert len(data) == SHOWN * 6
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[0][0]))))
    assert image.shape == (140, 140, 3)  # 7 x 20, the first multiple from 128
    assert any(np.array_equal(image[::7, ::7], b) for b in shown.bank_images)


def test_a_query_is_not_its_own_neighbour(tmp_path):
    shown = pictures(n=2)
    own = dataclasses.replace(
        shown,
        bank_images=np.concatenate([shown.images, shown.bank_images]),
        bank_cls=np.concatenate([shown.cls, shown.bank_cls]),
        bank_labels=np.concatenate([shown.labels, shown.bank_labels]),
    )
    captions = re.findall(r"</span> (-?\d\.\d\d)</figcaption>", write(tmp_path, pictures=own))
    assert len(captions) == 12
    assert "1.00" not in captions


def test_strips_are_a_section_and_none_is_no_section(tmp_path):
    shown = pictures(n=2)
    kept = {100: strip(shown.images, shown.patch_tokens.reshape(2, 16, 8))}
    text = write(tmp_path, strips=kept)
    assert Audit(text).open == []
    assert "Dense features over time" in text
    assert "step 100</b><br>k-NN 20.0 %" in text
    assert "over time" not in write(tmp_path)


def test_gram_anchoring_has_its_charts(tmp_path):
    metrics = [*rows(), {"step": 10, "loss/gram": 0.02, "gram_weight": 2.0}]
    text = write(tmp_path, metrics=metrics)
    assert "<h3>Gram</h3>" in text
    assert "<h3>Gram weight</h3>" in text
    assert "Gram</h3>" not in write(tmp_path)


def test_an_empty_bank_and_large_pictures(tmp_path):
    shown = pictures(side=300, n=1, m=0)
    text = write(tmp_path, pictures=shown)
    assert "Nearest images" not in text
    assert 'width="256"' in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": []}, "metrics has 0 rows"),
        (
            {"pictures": dataclasses.replace(pictures(), cls=np.zeros((3, 8)))},
            r"\(3, 8\), wanted",
        ),
        (
            {"pictures": dataclasses.replace(pictures(), images=np.zeros((10, 4, 4, 3)))},
            "float64, wanted uint8",
        ),
        (
            {"pictures": dataclasses.replace(pictures(), labels=LABELS[:2])},
            r"labels has shape \(2,",
        ),
    ],
)
def test_errors_say_what_was_wrong(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **change)
