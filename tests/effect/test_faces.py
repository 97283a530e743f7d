"""Does MTL-UE protect photographs, with crops and flips? On real faces, where there are some."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.api import CraftContext, MultiTaskData
from bench.catalog import make
from bench.engine.pipeline import seeded
from bench.engine.poisoning import quantise, release
from bench.net import MultiTaskNet
from bench.tasks import classification_only
from bench.training import Recipe, fit, score

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
EPSILON = 8
SEED = 0
RECIPE = Recipe(epochs=8, batch=32, learning_rate=1.5e-3)
SURROGATE, VICTIM = "small(width=16)", "small(width=8)"

MTL_UE = (
    "mtl-ue-em(rounds=6, surrogate_steps=76, batch=32, width=4, embedding_channels=16, learning_rate=0.002,"
    " stop_error=0)"
)


@pytest.fixture(scope="module")
def faces(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> MultiTaskData:
    """Small faces, or skip."""
    dataset = make("dataset", "utkface(size=32, limit=1500)")
    if missing := dataset.missing(data_root):
        pytest.skip(missing)
    data: MultiTaskData = dataset.load(data_root, tmp_path_factory.mktemp("cache"))
    return data


def new_net(backbone: str, data: MultiTaskData) -> MultiTaskNet:
    return MultiTaskNet(make("backbone", backbone), data.tasks, channels=3)


def learned(attack: str, data: MultiTaskData) -> float:
    """What a victim learns: balanced accuracy above that of guessing, mean over the tasks."""
    context = CraftContext(
        data.tasks,
        data.augmentation,
        EPSILON / 255,
        lambda: new_net(SURROGATE, data),
        [],
        CPU,
        lambda *_: None,
    )
    with seeded("craft", SEED):
        noise = make("attack", attack).craft(data.train, context)
        change, _ = quantise(noise, data.train, EPSILON, CPU, attack)
    released = replace(data.train, images=release(data.train.images, change, EPSILON, attack))
    balancer, no_defense = make("weighting", "ew").start(data.tasks), make("defense", "none")
    with seeded("victim", SEED):
        net = new_net(VICTIM, data)
        for _ in fit(net, released, data.tasks, RECIPE, data.augmentation, balancer, no_defense, CPU):
            pass
    scores = score(net, data.test, data.tasks, data.augmentation, CPU)
    above = [
        (scores[task.name]["balanced_accuracy"] or 0.0) - 1 / task.classes
        for task in classification_only(data.tasks, "this test")
    ]
    return sum(above) / len(above)


def test_mtl_ue_takes_more_than_half_of_what_faces_teach_and_random_noise_less(faces: MultiTaskData) -> None:
    clean, random, generated = (learned(attack, faces) for attack in ("clean", "random", MTL_UE))
    assert clean > 0.2
    assert generated < 0.5 * clean
    assert random > 0.5 * clean
