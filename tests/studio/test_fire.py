"""Raters in processes of their own lose nothing while the studio is killed and its disk is full: a small run of
``benchmarks.studio_raters``."""

from __future__ import annotations

import os

import pytest

from benchmarks.postgres import NoServer
from benchmarks.studio_raters import measure
from tests.browser import free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs processes that can be killed")]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_is_lost_doubled_or_misattributed_under_fire(kind: str) -> None:
    try:
        found = measure(kind, free_port(), raters=6, ratings=120, kills=2)
    except NoServer as error:
        pytest.skip(str(error))
    assert found["first_problems"] == [] and found["tracebacks"] == 0
    assert found["ratings"] == 120 and found["kills"] == 2
    assert any("Connection" in what or "Disconnected" in what for what in found["sent_again"]), "nobody was cut off"
    if kind == "sqlite" or not found["disk"].startswith("not filled"):
        assert any("Nothing was stored" in what for what in found["sent_again"]), "the disk was never full"
