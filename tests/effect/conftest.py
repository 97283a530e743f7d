"""What victims learn of the embedded digits: every poison is crafted once and every victim trained once."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from bench.api import MultiTaskData
from bench.catalog.build import build_part
from tests.effect.exploit import RECIPE, Scene


@pytest.fixture(scope="session")
def digits() -> MultiTaskData:
    """A few digits."""
    data: MultiTaskData = build_part("dataset", "digits(train=1500, test=500)").load(None, Path())
    return data


@pytest.fixture(scope="session")
def learned(digits: MultiTaskData) -> Callable[..., float]:
    """What a victim learns of *left* and *right*, by attack and defense; a process runs each once."""
    scene = Scene(digits, surrogate="small(width=8)", victim="small(width=8)")
    return cache(lambda attack, defense="none": scene.learned(attack, ("left", "right"), defense))


@pytest.fixture(scope="session")
def learned_alone(digits: MultiTaskData) -> Callable[[str], float]:
    """What a victim learns of *left* if there is no other task, by attack."""
    data = replace(digits, tasks=tuple(task for task in digits.tasks if task.name == "left"))
    recipe = replace(RECIPE, batch=64)
    scene = Scene(data, surrogate="small(width=8)", victim="small(width=16)", recipe=recipe)
    return lambda attack: scene.learned(attack, ("left",))
