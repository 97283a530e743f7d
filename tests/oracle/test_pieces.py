"""A batch that goes through the network in pieces: the training of the whole batch, in less memory."""

import pytest
import torch
from torch import Tensor, nn

from bench.backbones.small import Small
from bench.catalog.build import build_part
from bench.catalog.parts import CATALOG
from bench.conformance.cases import Case
from bench.training.loop import train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Augmentation, Recipe

CPU = torch.device("cpu")
FLAT = Case(classes=(2, 3, 4), missing=0.6, count=13)
DENSE = Case(classes=(2,), dense=True, missing=0.1, count=6)


def trained(
    pieces: int, weighting: str = "ew", defense: str = "none", case: Case = FLAT
) -> tuple[Tensor, list[dict[str, float]]]:
    """Parameters after two epochs, without batch normalization, which differs; and the tasks' weights."""
    backbone = "dense-small(width=2)" if case.dense else "small(width=2)"
    torch.manual_seed(0)
    net = MultiTaskNet(build_part("backbone", backbone), case.tasks, (3, 16, 16), pieces)
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            net.set_submodule(name, nn.Identity())
    balancer = build_part("weighting", weighting).start(case.tasks, CPU)
    recipe = Recipe(epochs=2, batch=7, learning_rate=1e-2)
    steps = train_epochs(
        net, case.split(), case.tasks, recipe, Augmentation(), balancer, build_part("defense", defense), CPU
    )
    weights = [step.weights for step in steps]
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()]), weights


def check_alike(*arguments: object) -> None:
    (whole, weights), (pieces, others) = (trained(count, *arguments) for count in (1, 2))  # type: ignore[arg-type]
    assert torch.allclose(whole, pieces, atol=2e-5)
    for one, other in zip(weights, others, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("weighting", CATALOG["weighting"])
def test_every_weighting_sees_the_whole_batch(weighting: str) -> None:
    check_alike(weighting)


@pytest.mark.parametrize("defense", ["mixup", "cutmix", "ueraser-max"])
def test_defenses_that_mix_images_or_ask_the_network_see_the_whole_batch(defense: str) -> None:
    check_alike("ew", defense)


def test_dense_tasks_see_the_whole_batch() -> None:
    check_alike("ew", "none", DENSE)


def test_the_network_never_sees_more_than_a_piece_and_no_piece_of_one_image() -> None:
    net = MultiTaskNet(Small(width=2), FLAT.tasks, (3, 16, 16), pieces=2)
    seen: list[int] = []
    net.encoder.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    for count, wanted in [(9, [5, 4]), (4, [2, 2]), (3, [3]), (2, [2])]:
        seen.clear()
        with torch.no_grad():
            (first, *_) = net(torch.rand(count, 3, 16, 16))
        assert (len(first), seen) == (count, wanted)


def test_decoders_see_a_piece_at_a_time_too() -> None:
    net = MultiTaskNet(build_part("backbone", "dense-small(width=2)"), DENSE.tasks, (3, 16, 16), pieces=2)
    seen: list[int] = []
    net.decoders[0].register_forward_pre_hook(lambda _, maps: seen.append(len(maps[0])))
    with torch.no_grad():
        net(torch.rand(5, 3, 16, 16))
    assert seen == [3, 2]


def test_batch_normalisation_sees_the_pieces_and_each_of_them_once() -> None:
    torch.manual_seed(0)
    net = MultiTaskNet(Small(width=2), FLAT.tasks, (3, 16, 16), pieces=2)
    torch.manual_seed(0)
    by_hand = MultiTaskNet(Small(width=2), FLAT.tasks, (3, 16, 16))
    images = torch.rand(8, 3, 16, 16)
    features = net.encode(images)
    wanted = torch.cat([by_hand.encode(half) for half in images.split(4)])
    assert torch.equal(features, wanted)
    for _ in range(3):  # a pass per task, as some weightings have it
        features.sum().backward(retain_graph=True)
        wanted.sum().backward(retain_graph=True)
    for (name, value), other in zip(net.named_buffers(), by_hand.buffers(), strict=True):
        assert torch.equal(value, other) or name.endswith("num_batches_tracked")
    for one, other in zip(net.encoder.parameters(), by_hand.encoder.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, other.grad)
