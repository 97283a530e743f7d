"""What victims learn of the embedded digits: every poison is crafted once and every victim trained once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from bench.catalog.build import build_part
from tests.effect.exploit import Scene


@pytest.fixture(scope="session")
def learned() -> Callable[..., float]:
    """What a victim learns of *left* and *right*, by attack and defense; a process runs each once."""
    data = build_part("dataset", "digits(train=1500, test=500)").load(None, Path())
    scene = Scene(data, surrogate="small(width=8)", victim="small(width=8)")
    return cache(lambda attack, defense="none": scene.learned(attack, ("left", "right"), defense))
