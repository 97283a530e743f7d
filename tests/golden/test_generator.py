"""A fixed generator of MTL-UE against reference values.

δ and the regularizers in generator.json were computed once by the public code of Yu et al., ICML 2025, with
the weights that `fill` makes. On the same machine this package gave the same bits for δ, and regularizers
that differ in the last digit of a float. The weights' sums are those of this package for a fixed seed: a
change means that generators start from other weights.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.tasks.classification import Classification
from mtlue.generator import Generator
from mtlue.profiles import OFFICIAL_EPSILON
from mtlue.regularizers import embedding_regularizers

REFERENCE = json.loads((Path(__file__).parent / "generator.json").read_text(encoding="utf-8"))

TASKS = (Classification("three", ("a", "b", "c")), Classification("two", ("a", "b")))


def new_generator(width: int, embedding_channels: int) -> Generator:
    epsilon = 8 / 255 * OFFICIAL_EPSILON
    return Generator(TASKS, 3, 8, 8, epsilon=epsilon, base_width=width, embedding_channels=embedding_channels)


def draw(number: int, *shape: int) -> torch.Tensor:
    """Return fixed numbers in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(number))


@torch.no_grad()
def fill(parameters: list[nn.Parameter]) -> None:
    """Set weights to fixed values, which keep features near 1 from layer to layer."""
    for number, parameter in enumerate(parameters):
        drawn = draw(number, *parameter.shape)
        if parameter.ndim > 1:
            scale = 4.0 if parameter.ndim == 2 else 3 / (parameter[0].numel() ** 0.5)
            parameter.copy_(scale * (drawn - 0.5))
        else:
            parameter.copy_(drawn)
    for parameter in parameters[-2:]:  # so that δ is clamped at some values only
        parameter.mul_(2**-6)


def test_delta_and_regularizers_are_those_of_the_public_code() -> None:
    generator = new_generator(64, 16)
    fill(list(generator.parameters()))
    images = draw(1000, 2, 3, 8, 8)
    targets = {"three": torch.tensor([2, 0]), "two": torch.tensor([0, 1])}
    for mode in ("eval", "train"):
        with torch.no_grad():
            delta = generator.train(mode == "train")(images, targets).flatten()
        wanted = torch.tensor(REFERENCE["delta"][mode])
        assert 0.2 < float((wanted.abs() < 0.0314).float().mean()) < 1, "some values are clamped, some not"
        assert float((delta - wanted).abs().max()) < 1e-6
    with torch.no_grad():
        intra, inter = embedding_regularizers(generator.class_embeddings(), per_task=True)
    assert float(intra) == pytest.approx(REFERENCE["intra"], abs=1e-6)
    assert float(inter) == pytest.approx(REFERENCE["inter"], abs=1e-6)


def test_a_generator_starts_from_the_same_weights() -> None:
    torch.manual_seed(0)
    state = new_generator(2, 1).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == REFERENCE["shapes"]
    sums = {name: float(value.double().sum()) for name, value in state.items()}
    assert sums == pytest.approx(REFERENCE["sums"], abs=1e-5)
