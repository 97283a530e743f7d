"""A few images are kept with every poison, and they are what was released."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.engine.planning.cell import Poison
from bench.engine.stages.craft import craft_poison
from bench.engine.stages.example_images import select_example_images
from bench.engine.stages.loaded_data import load_dataset
from bench.engine.storage.store import POISONS
from bench.example_images import EXAMPLES, read_example_images
from bench.values import Budget, ignore_progress
from tests.engine import tiny


def poison(attack: str, out: Path) -> Poison:
    """Craft one poison of the tiny suite, with the surrogates it needs."""
    poisons = (cell.poison for cell in tiny.plan(matrix={"attack": [attack]}).cells)
    chosen = next(poison for poison in poisons if poison.attack.name == attack)
    craft_poison(chosen, tiny.run_context(out), ignore_progress)
    return chosen


@pytest.mark.parametrize("attack", ["random", "random-samplewise", "mtl-ue-em", "cuda"])
def test_examples_are_rows_of_the_released_set(attack: str, tmp_path: Path) -> None:
    made, context = poison(attack, tmp_path), tiny.run_context(tmp_path)
    examples = read_example_images(tmp_path, made.key)
    assert examples is not None
    assert not examples.is_shrunk
    assert examples.rows.tolist() == [8, 24, 40, 56]
    clean = load_dataset(made.dataset.part, context).train.images[examples.rows]
    assert np.array_equal(examples.clean, clean.numpy())
    change = context.store.load(POISONS, made.key)["change"][examples.rows]
    assert np.array_equal(examples.released.astype(int) - examples.clean, change.numpy())
    assert change.any()


def test_a_run_without_images_keeps_none_and_has_the_same_poison(tmp_path: Path) -> None:
    made = poison("random", tmp_path / "with")
    context = replace(tiny.run_context(tmp_path / "without"), keep_images=False)
    craft_poison(made, context, ignore_progress)
    assert not (context.store.folder(POISONS, made.key) / EXAMPLES).exists()
    stores = [tiny.run_context(tmp_path / out).store for out in ("with", "without")]
    both = [(store.folder(POISONS, made.key) / "tensors.safetensors").read_bytes() for store in stores]
    assert both[0] == both[1]


def test_large_images_are_shrunk_and_say_so() -> None:
    clean = torch.full((2, 3, 300, 600), 100, dtype=torch.uint8)
    change = torch.zeros(clean.shape, dtype=torch.int8)
    change[..., :300] = 8
    examples = select_example_images(clean, change, Budget("linf", 8), "em")
    assert examples.is_shrunk
    assert examples.side == 600
    assert examples.clean.shape == (2, 3, 128, 256)
    assert (examples.clean == 100).all()
    assert np.unique(examples.released[..., :127]).tolist() == [108]
    assert np.unique(examples.released[..., 129:]).tolist() == [100]


def test_small_sets_give_every_image_once() -> None:
    clean = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1)
    examples = select_example_images(clean, torch.ones_like(clean).char(), None, "em")
    assert examples.clean.flatten().tolist() == [0, 1, 2]
    assert examples.released.flatten().tolist() == [1, 2, 3]
