"""The text that benchmarks print."""

from importlib.metadata import version

from benchmarks import report


def test_table_is_markdown():
    got = report.table(["step", "s"], [["ViT-S", "1.5"], ["ViT-B", "3.0"]])
    assert got.splitlines() == [
        "| step | s |",
        "| --- | ---: |",
        "| ViT-S | 1.5 |",
        "| ViT-B | 3.0 |",
    ]


def test_heading_names_device_and_versions():
    got = report.heading(report.jax_devices(), "jax")
    assert got.startswith(f"8 x {report.processor()}, jax {version('jax')}, Python 3.")
    assert report.processor()
