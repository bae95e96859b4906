"""Clustering and search by several processes: each has the whole result, as if it were alone."""

import pytest

from tests.distributed import launcher


@pytest.mark.hosts
def test_two_processes_and_one_device_agree_to_the_bit(tmp_path):
    launcher.finish(["tests.curation.worker"], tmp_path, count=2, devices=2)
