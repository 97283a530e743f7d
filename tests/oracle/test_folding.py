"""Batch normalization folded into convolutions: the same outputs and gradients, or the network as it is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.crafting.folding import fold_batch_norms
from bench import torchvision_import
from bench.catalog.build import build_part
from bench.catalog.parts import CATALOG
from bench.tasks.classification import Classification
from bench.tasks.segmentation import Segmentation
from bench.training.net import MultiTaskNet

LABELS = Classification("four", ("a", "b", "c", "d"))
MAPS = Segmentation("things", ("a", "b", "c"))
SMALLER = {"small": "small(width=4)", "dense-small": "dense-small(width=4)"}
BACKBONES = [
    *(SMALLER.get(name, name) for name in CATALOG["backbone"] if ":" not in name),
    *("torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1", "timm:test_resnet", "timm:test_vit"),
]


def count_norms(net: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())


def draw_statistics(net: nn.Module, variance: float = 1.0) -> nn.Module:
    """Return a network in evaluation mode whose batch normalization has seen something."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight, part.bias, part.running_mean):
                assert values is not None
                nn.init.normal_(values, 0.5, 0.5)
            assert part.running_var is not None
            nn.init.uniform_(part.running_var, 0.5 * variance, 1.5 * variance)
    return net.eval().requires_grad_(False)


def outputs_and_gradient(net: nn.Module, images: Tensor) -> list[Tensor]:
    images = images.clone().requires_grad_(True)
    outputs = net(images)
    gradient = torch.autograd.grad(sum(out.sum() for out in outputs), images)
    return [*(out.detach() for out in outputs), *gradient]


def check_same(net: nn.Module, folded: nn.Module, images: Tensor) -> None:
    (*plain, slope), (*fast, fast_slope) = (outputs_and_gradient(part, images) for part in (net, folded))
    for old, new in zip(plain, fast, strict=True):
        assert float((new - old).abs().max()) <= 1e-4 * float(old.abs().max())
    # A rounding error at the kink of a ReLU turns a whole term of the gradient on or off.
    assert float((fast_slope - slope).norm()) <= 1e-2 * float(slope.norm())


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_computes_the_same(name: str) -> None:
    if name.startswith("timm:"):
        torchvision_import.import_torchvision()  # timm imports torchvision
        pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    torch.manual_seed(0)
    backbone = build_part("backbone", name)
    net = draw_statistics(
        MultiTaskNet(backbone, (LABELS, MAPS) if backbone.dense else (LABELS,), (3, 32, 32))
    )
    images, norms = torch.rand(2, 3, 32, 32), count_norms(net)
    folded = fold_batch_norms(net, images)
    check_same(net, folded, images)
    assert count_norms(net) == norms, "the network given is not changed"
    # DenseNet normalizes before its convolutions; half of its normalizations have one before them, too.
    assert count_norms(folded) == (62 if name == "densenet121" else 0)
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def small_net() -> MultiTaskNet:
    torch.manual_seed(0)
    return MultiTaskNet(build_part("backbone", "small(width=4)"), (LABELS,), (3, 16, 16))


@pytest.mark.parametrize("variance", [0.0, 1e-12, 1e-5, 1e12])
def test_extreme_statistics_compute_the_same(variance: float) -> None:
    net, images = draw_statistics(small_net(), variance), torch.rand(4, 3, 16, 16)
    folded = fold_batch_norms(net, images)
    assert count_norms(folded) == 0
    check_same(net, folded, images)


def test_channels_without_weight_compute_the_same() -> None:
    net, images = draw_statistics(small_net()), torch.rand(4, 3, 16, 16)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight[::2] = 0
    check_same(net, fold_batch_norms(net, images), images)


class Layers(nn.Module):
    """A convolution and its batch normalization, with a forward pass of its own."""

    def __init__(self, run: Callable[["Layers", Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.run = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), run

    def forward(self, images: Tensor) -> Any:
        """Return what the given function does."""
        return self.run(self, images)


def by_length(net: Layers, images: Tensor) -> Any:
    """The length of a symbol is not known."""
    return net.norm(net.conv(images)) / len(images)


def twice(net: Layers, images: Tensor) -> Any:
    """The convolution's output is read by another layer too."""
    maps = net.conv(images)
    return maps + net.norm(maps)


def by_weight(net: Layers, images: Tensor) -> Any:
    """The weight is read although the layer runs, too."""
    return net.norm(net.conv(images)) + functional.conv2d(images, net.conv.weight)


def not_normalized(net: Layers, images: Tensor) -> Any:
    """The batch normalization's statistics are those of the batch."""
    net.norm.track_running_stats, net.norm.running_mean, net.norm.running_var = False, None, None
    return net.norm(net.conv(images))


@pytest.mark.parametrize("run", [by_length, twice, by_weight, not_normalized], ids=lambda run: run.__name__)
def test_what_cannot_be_folded_is_left_as_it_is(run: Callable[[Layers, Tensor], Any]) -> None:
    torch.manual_seed(0)
    net, images = draw_statistics(nn.Sequential(Layers(run))), torch.rand(4, 3, 8, 8)
    folded = fold_batch_norms(net, images)
    check_same(net, folded, images)
    assert count_norms(folded) == 1


def test_a_convolution_that_computes_its_weight_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    images = torch.rand(4, 3, 8, 8)
    net(images)
    draw_statistics(net)
    folded = fold_batch_norms(net, images)
    assert folded is net
