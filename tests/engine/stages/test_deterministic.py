"""Bits that repeat on CUDA: what torch is asked for, and that nothing is computed in a way it would refuse.

Which operations CUDA refuses can be told without it: those that parts run on a CPU are noted, with the mode
switched on, and compared with torch's list.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bench.backbones.small import cell_means
from bench.catalog.build import build_part
from bench.catalog.parts import CATALOG
from bench.conformance.cases import CASES, PLAIN_CASE, Case
from bench.conformance.craft_run import AttackUnderTest
from bench.conformance.part import build_quick_part
from bench.engine.stages.context import describe_environment, with_run_context
from bench.engine.stages.device import deterministic_algorithms
from bench.engine.stages.noise_report import noise_report
from bench.tasks.segmentation import Segmentation
from bench.training.loaders import make_batch
from bench.training.loop import score_network, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Augmentation, Recipe, ignore_progress
from tests.engine import tiny

CPU = torch.device("cpu")

# From the documentation of `torch.use_deterministic_algorithms`. Two that it lists are not here: bilinear
# interpolation, which takes another way on CUDA, and the cumulative sum, which has had one since torch 2.6.
REFUSED = {
    "aten::_adaptive_avg_pool2d_backward",
    "aten::_adaptive_avg_pool3d_backward",
    "aten::_ctc_loss_backward",
    "aten::adaptive_max_pool2d_backward",
    "aten::avg_pool3d_backward",
    "aten::fractional_max_pool2d_backward",
    "aten::grid_sampler_2d_backward",
    "aten::grid_sampler_3d_backward",
    "aten::histc",
    "aten::kthvalue",
    "aten::max_unpool2d",
    "aten::median.dim",
    "aten::put_",
    "aten::reflection_pad1d_backward",
    "aten::reflection_pad2d_backward",
    "aten::upsample_bicubic2d_backward",
    "aten::_upsample_bilinear2d_aa_backward",
    "aten::bincount with weights",
    "aten::nll_loss2d_forward with a sum",
}


class Noted(TorchDispatchMode):
    """Notes the operations that are run, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = function._schema
        self.operations.add(".".join(filter(None, (schema.name, schema.overload_name))))
        if schema.name == "aten::nll_loss2d_forward" and args[3] != 0:
            self.operations.add("aten::nll_loss2d_forward with a sum")
        if schema.name == "aten::bincount" and len(args) > 1 and args[1] is not None:
            self.operations.add("aten::bincount with weights")
        return function(*args, **(kwargs or {}))


@contextmanager
def nothing_refused() -> Iterator[None]:
    """Check that what CUDA would refuse is not run."""
    with deterministic_algorithms(True), Noted() as noted:
        yield
    assert noted.operations
    assert sorted(noted.operations & REFUSED) == []


FLAT = Case(classes=(2, 3, 4), missing=0.3, count=6)
DENSE = Case(classes=(2,), dense=True, missing=0.1, count=6)


def train_and_score(case: Case, backbone: str, weighting: str = "ew", side: int = 16) -> None:
    split = case.split()
    if side != 16:
        images = functional.interpolate(split.images.float(), size=side).to(torch.uint8)
        split = replace(split, images=images)
    net = MultiTaskNet(build_part("backbone", backbone), case.tasks, (3, side, side))
    balancer, recipe = build_part("weighting", weighting).start(case.tasks, CPU), Recipe(epochs=1, batch=6)
    list(
        train_epochs(
            net,
            split,
            case.tasks,
            recipe,
            Augmentation(flip=True),
            balancer,
            build_part("defense", "none"),
            CPU,
        )
    )
    score_network(net, split, case.tasks, Augmentation(), CPU)


@pytest.mark.parametrize("name", CATALOG["backbone"])
def test_no_backbone_computes_what_cuda_refuses(name: str) -> None:
    with nothing_refused():
        train_and_score(FLAT, name, side=32)
        if build_part("backbone", name).dense:
            train_and_score(DENSE, name)


@pytest.mark.parametrize("name", CATALOG["weighting"])
def test_no_weighting_computes_what_cuda_refuses(name: str) -> None:
    with nothing_refused():
        train_and_score(FLAT, "small(width=2)", name)


@pytest.mark.parametrize("name", CATALOG["defense"])
def test_no_defense_computes_what_cuda_refuses(name: str) -> None:
    defense = build_quick_part("defense", name)
    net = MultiTaskNet(build_part("backbone", "small(width=2)"), FLAT.tasks, (3, 16, 16)).train()
    with nothing_refused():
        defense.purify(FLAT.split(), FLAT.tasks, CPU)
        for seed in range(4):  # some draw what they do
            torch.manual_seed(seed)
            defense.augment(make_batch(FLAT.split(), torch.arange(6), CPU), net, FLAT.tasks)


@pytest.mark.parametrize("name", CATALOG["attack"])
def test_no_attack_computes_what_cuda_refuses(name: str) -> None:
    tested = AttackUnderTest(name)
    with nothing_refused():
        tested.craft_once(PLAIN_CASE)
        if build_part("attack", name).dense:
            tested.craft_once(next(key for key, case in CASES.items() if case.dense))


def test_the_noise_report_computes_nothing_that_cuda_refuses() -> None:
    split = FLAT.split()
    with nothing_refused():
        noise_report(split, torch.randint(-8, 9, split.images.shape).to(torch.int8), FLAT.tasks, CPU)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (5, 7), (2, 3), (1, 1)])
def test_a_grid_is_pooled_cell_by_cell_as_torch_does(height: int, width: int) -> None:
    maps = torch.rand(2, 3, height, width, requires_grad=True)
    wanted, found = functional.adaptive_avg_pool2d(maps, 4), cell_means(maps, 4)
    assert torch.allclose(found, wanted, atol=1e-6)
    pulls = torch.rand_like(wanted)
    ours, theirs = (torch.autograd.grad((means * pulls).sum(), maps)[0] for means in (found, wanted))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_loss_of_label_maps_is_the_same_either_way() -> None:
    torch.manual_seed(0)
    task = Segmentation("classes", ("a", "b", "c"))
    target = torch.randint(-1, 3, (2, 5, 6))

    def loss_and_gradient() -> tuple[Tensor, Tensor]:
        outputs = torch.linspace(-2, 2, 180).view(2, 3, 5, 6).requires_grad_()
        loss = task.loss(outputs, target)
        return loss.detach(), torch.autograd.grad(loss, outputs)[0]

    plain = loss_and_gradient()
    with deterministic_algorithms(True):
        assert all(map(torch.allclose, loss_and_gradient(), plain))


def test_the_mode_is_on_within_and_off_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for asked in (True, False):
        try:
            with deterministic_algorithms(asked):
                assert torch.are_deterministic_algorithms_enabled() == asked
                assert torch.backends.cudnn.deterministic == asked
                assert not asked or os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
                raise KeyError
        except KeyError:
            assert not torch.are_deterministic_algorithms_enabled()
            assert not torch.backends.cudnn.deterministic


@pytest.mark.parametrize(
    ("device", "asked", "on"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_the_mode_is_on_in_a_worker_that_computes_on_cuda(
    device: str, asked: bool, on: bool, tmp_path: Path
) -> None:
    run_context = replace(tiny.run_context(tmp_path), device=device, deterministic=asked)
    work = with_run_context(lambda *_: torch.are_deterministic_algorithms_enabled())
    assert work(None, run_context, ignore_progress) == on


def test_the_environment_says_what_was_asked(tmp_path: Path) -> None:
    run_context = tiny.run_context(tmp_path)
    assert describe_environment(run_context)["deterministic"] is False
    assert describe_environment(replace(run_context, deterministic=True))["deterministic"] is True
