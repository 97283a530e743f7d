"""A crafting that was interrupted goes on from its checkpoint as if it had never stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.engine.planning.cell import Poison
from bench.engine.stages import craft
from bench.engine.stages.checkpoint import FileCheckpoint
from bench.engine.stages.craft import craft_poison, restore_noise
from bench.engine.stages.surrogate import train_surrogate
from bench.engine.storage.store import POISONS
from bench.training.loaders import make_batch
from tests.engine.tiny import plan, run_context

IDENTITY = {"data": "x", "device": "cpu"}


def state(value: float = 1.0) -> dict[str, Any]:
    return {"done": 3, "nested": {"weights": torch.full((4,), value)}, "rows": [torch.arange(3)]}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "ab.pt"
    FileCheckpoint(path, IDENTITY, every_s=0).save(state)
    loaded = FileCheckpoint(path, IDENTITY).load()
    assert loaded is not None
    assert loaded["done"] == 3
    assert torch.equal(loaded["nested"]["weights"], torch.ones(4))
    assert torch.equal(loaded["rows"][0], torch.arange(3))
    assert [file.name for file in path.parent.iterdir()] == ["ab.pt"]


def test_nothing_is_loaded_before_anything_was_saved(tmp_path: Path) -> None:
    assert FileCheckpoint(tmp_path / "ab.pt", IDENTITY).load() is None


def test_a_recent_state_is_not_saved_again(tmp_path: Path) -> None:
    checkpoint, asked = FileCheckpoint(tmp_path / "ab.pt", IDENTITY, every_s=3600), []

    def expensive() -> dict[str, Any]:
        asked.append(1)
        return state()

    checkpoint.save(expensive)
    assert not asked
    assert not (tmp_path / "ab.pt").exists()


@pytest.mark.parametrize("identity", [{"data": "y", "device": "cpu"}, {"data": "x", "device": "cuda"}])
def test_a_state_of_other_data_or_another_device_is_not_taken_up(
    identity: dict[str, str], tmp_path: Path
) -> None:
    FileCheckpoint(tmp_path / "ab.pt", IDENTITY, every_s=0).save(state)
    assert FileCheckpoint(tmp_path / "ab.pt", identity).load() is None


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_file_is_named_and_not_taken_up(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ab.pt"
    FileCheckpoint(path, IDENTITY, every_s=0).save(state)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[:-9], "altered": content, "empty": b""}[damage])
    assert FileCheckpoint(path, IDENTITY).load() is None
    assert str(path) in caplog.text


def test_without_room_crafting_goes_on_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    FileCheckpoint(tmp_path / "file" / "ab.pt", IDENTITY, every_s=0).save(state)
    assert "cannot write" in caplog.text


class PowerCutError(Exception):
    """Stands for a kill."""


ATTACKS = {
    "em": {"rounds": 3, "surrogate_steps": 2, "steps": 2, "batch": 20},
    "em-classwise": {"rounds": 3, "surrogate_steps": 2, "batch": 20, "portion": 0.8},
    "rem": {"iterations": 6, "steps": 1, "samples": 1, "attack_steps": 1, "batch": 20},
    "tap": {"steps": 2, "restarts": 2, "batch": 20},
    "sep-fa-vr": {"checkpoints": 2, "steps": 2, "inner_steps": 2, "batch": 20},
    "pil": {"epochs": 2, "steps": 2, "batch": 20},
    "uc": {"clusters": 3, "rounds": 3, "batch": 20, "width": 4},
    "mtl-ue-em": {"rounds": 3, "surrogate_steps": 2, "batch": 20, "width": 4, "stop_error": 0.0},
    "mtl-ue-sep": {"rounds": 3, "checkpoints": 2, "batch": 20, "width": 4},
}


def poison_of(attack: str) -> Poison:
    (poison,) = plan(
        f"attack={attack}", matrix={"attack": ["clean", attack]}, params={"attack": {attack: ATTACKS[attack]}}
    ).poisons[1:]
    return poison


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_interrupted_crafting_ends_as_an_unbroken_one(
    attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = poison_of(attack)
    monkeypatch.setattr("bench.engine.stages.checkpoint.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(
        craft, "FileCheckpoint", lambda path, identity: FileCheckpoint(path, identity, every_s=0.0)
    )
    monkeypatch.setattr("bench.engine.stages.checkpoint.MAX_TIME_SHARE", 1e9)

    def crafted(out: Path, cut_at: float) -> list[int]:
        """Craft, with the power cut at a step; return the steps seen."""
        seen: list[int] = []

        def progress(what: str, done: int, total: int) -> None:
            seen.append(done)
            if done >= cut_at:
                raise PowerCutError

        if cut_at < float("inf"):
            with pytest.raises(PowerCutError):
                craft_poison(poison, run_context(out), progress)
        else:
            craft_poison(poison, run_context(out), progress)
        return seen

    for out in (tmp_path / "unbroken", tmp_path / "broken"):
        run_context(out).store.prepare()
        if poison.attack.part.needs_surrogate:
            train_surrogate(poison.surrogate, run_context(out), lambda *_: None)
    total = max(crafted(tmp_path / "unbroken", float("inf")))
    store = run_context(tmp_path / "broken").store
    for cut in range(2, total, 2):
        crafted(tmp_path / "broken", cut)
        assert store.checkpoint_path(poison.key).exists()
    resumed = crafted(tmp_path / "broken", float("inf"))
    assert resumed[0] > 0, "it started anew"
    assert not store.checkpoint_path(poison.key).exists()
    unbroken = run_context(tmp_path / "unbroken").store.load(POISONS, poison.key)
    broken = store.load(POISONS, poison.key)
    assert unbroken.keys() == broken.keys()
    assert all(torch.equal(broken[name], value) for name, value in unbroken.items())


def test_the_generator_is_kept_with_the_poison_and_serves_unseen_images(tmp_path: Path) -> None:
    poison, context = poison_of("mtl-ue-em"), run_context(tmp_path)
    context.store.prepare()
    craft_poison(poison, context, lambda *_: None)
    noise = restore_noise(poison, context)
    data = poison.dataset.part.load(None, context.cache)
    batch = make_batch(data.train, torch.arange(10), context.torch_device)
    change = context.store.load(POISONS, poison.key)["change"][:10]
    steps = (noise.delta(batch) * 255).round().clamp(-8, 8)
    clean = data.train.images[:10].float()
    assert torch.equal((clean + steps).clamp(0, 255) - clean, change.float())
    unseen = noise.delta(make_batch(data.test, torch.arange(10), context.torch_device))
    assert unseen.shape == (10, 3, *data.test.images.shape[2:])
    assert unseen.any()
    assert float(unseen.abs().max()) <= 8 / 255 * (1 + 1e-6)
