"""Snapshots of a surrogate, as attacks get them."""

from pathlib import Path

import pytest
import torch

from bench.engine.planning.cell import Surrogate
from bench.engine.stages.context import RunContext
from bench.engine.stages.loaded_data import load_dataset
from bench.engine.stages.surrogate import load_snapshots, train_surrogate
from bench.engine.storage.store import SURROGATES
from bench.errors import BenchError
from bench.training.net import MultiTaskNet
from bench.values import ignore_progress
from tests.engine import tiny


def load(surrogate: Surrogate, run_context: RunContext) -> list[MultiTaskNet]:
    data = load_dataset(surrogate.dataset.part, run_context)
    new_net = lambda: MultiTaskNet(surrogate.backbone.part, data.tasks, (3, 32, 32))  # noqa: E731
    return load_snapshots(run_context.store, surrogate, 2, new_net, data)


def test_snapshots_that_an_earlier_version_stored_are_still_read(tmp_path: Path) -> None:
    run_context = tiny.run_context(tmp_path)
    (surrogate,) = tiny.plan(matrix={"attack": ["tap"]}).surrogates
    train_surrogate(surrogate, run_context, ignore_progress)
    before = [net.state_dict() for net in load(surrogate, run_context)]
    store = run_context.store
    about = store.read_about(SURROGATES, surrogate.key)
    assert about is not None
    tensors = store.load(SURROGATES, surrogate.key)
    store.save(SURROGATES, surrogate.key, tensors, {"checkpoints": about.pop("snapshots"), **about})
    after = [net.state_dict() for net in load(surrogate, run_context)]
    assert "snapshots" not in (store.read_about(SURROGATES, surrogate.key) or {})
    assert len(before) == len(after) == 2
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_missing_surrogate_is_named(tmp_path: Path) -> None:
    (surrogate,) = tiny.plan(matrix={"attack": ["tap"]}).surrogates
    with pytest.raises(BenchError, match=r"surrogate .* is missing"):
        load(surrogate, tiny.run_context(tmp_path))
