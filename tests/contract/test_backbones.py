"""Backbones: published sizes and weights, the images they take, maps of features, families."""

import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import torchvision_import
from bench.backbones.dense import DenseSmall
from bench.backbones.resnet import ResNet18
from bench.backbones.small import Small
from bench.backbones.surgery import Resized
from bench.catalog.build import build_part
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.training.net import MultiTaskNet
from bench.values import DENSE, Shape

LABELS = (Classification("two", ("a", "b")), Classification("four", ("a", "b", "c", "d")))
MAPS = (Segmentation("things", ("a", "b", "c")), Depth("depth", 1.0, 9.0), Normals("normals"))

FAMILY_NAMES = [
    *(f"torchvision:{name}" for name in ("mobilenet_v3_small", "squeezenet1_1")),
    *(f"timm:{name}" for name in ("test_resnet", "test_vit", "test_convnext")),
]
COLOR = (3, 64, 64)


def built(name: str, shape: Shape) -> tuple[nn.Module, int]:
    """Return a backbone's encoder and its width under seed 0."""
    if name.startswith("timm:"):
        torchvision_import.import_torchvision()  # timm imports torchvision
        pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    torch.manual_seed(0)
    encoder, width = build_part("backbone", name).build(shape)
    return encoder, width


encoder_of = cache(built)
"""The same for tests that only look on, in evaluation mode."""


@pytest.fixture(autouse=True, scope="module")
def _forget() -> Iterator[None]:
    yield
    encoder_of.cache_clear()


def seen(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the features of images in evaluation mode."""
    with torch.no_grad():
        features: Tensor = encoder.eval()(images)
    return features


def check_all_is_trained(net: nn.Module, loss: Tensor) -> None:
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(), f"{name} gets a zero gradient"


# All


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("resnet18", (2 / (64 * 7 * 7)) ** 0.5),
        ("dilated-resnet18", (2 / (64 * 7 * 7)) ** 0.5),
        ("vgg16", (2 / (64 * 3 * 3)) ** 0.5),
        ("densenet121", (2 / (5 * 3 * 3)) ** 0.5),
    ],
)
def test_the_first_convolution_is_drawn_as_the_others_for_any_number_of_channels(
    name: str, spread: float
) -> None:
    encoder, _ = built(name, (5, 32, 32))
    first = next(part for part in encoder.modules() if isinstance(part, nn.Conv2d))
    assert first.in_channels == 5
    assert first.weight.std().item() == pytest.approx(spread, rel=0.05)
    assert first.bias is None or not first.bias.any()


# The paper's


def test_an_old_seed_gives_the_old_weights() -> None:
    torch.manual_seed(3)
    resnet = torchvision_import.models.resnet18(weights=None).state_dict()
    torch.manual_seed(3)
    color = ResNet18().build((3, 32, 32))[0].state_dict()
    assert set(resnet) - set(color) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, resnet[name]) for name, value in color.items())

    torch.manual_seed(3)
    torchvision_import.models.resnet18(weights=None)
    first = nn.Conv2d(1, 64, 7, bias=False).weight
    nn.init.kaiming_normal_(first, mode="fan_out", nonlinearity="relu")
    torch.manual_seed(3)
    assert torch.equal(ResNet18().build((1, 32, 32))[0].state_dict()["conv1.weight"], first)

    torch.manual_seed(3)
    convolutions = [nn.Conv2d(*sides, 3, bias=False).weight for sides in pairwise((2, 5, 10, 20, 20))]
    torch.manual_seed(3)
    small = Small(width=5).build((2, 9, 9))[0]
    found = [part.weight for part in small.modules() if isinstance(part, nn.Conv2d)]
    assert all(torch.equal(a, b) for a, b in zip(found, convolutions, strict=True))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # published counts less the classifier's (VGG: three layers', DenseNet: also the other stem's)
        ("resnet18", 11_689_512 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("vgg16", 138_365_992 - 123_642_856),
        ("densenet121", 7_978_856 - 1_025_000 - 64 * 3 * (7 * 7 - 3 * 3) - 2 * 64),
        ("vit-b16", 86_567_656 - 769_000 - (14 * 14 - 4 * 4) * 768),
    ],
)
def test_the_networks_have_their_published_size(name: str, parameters: int) -> None:
    encoder, _ = encoder_of(name, COLOR)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "part", "sides"),
    [
        ("resnet18", "layer1", 16),
        ("resnet50", "layer4", 2),
        ("vgg16", "0", 2),
        ("densenet121", "features.denseblock1", 64),
        ("densenet121", "features.denseblock4", 8),
        ("vit-b16", "net.conv_proj", 4),
    ],
)
def test_the_maps_are_as_fine_as_in_the_paper(name: str, part: str, sides: int) -> None:
    encoder, _ = encoder_of(name, COLOR)
    found: list[Any] = []
    handle = encoder.get_submodule(part).register_forward_hook(lambda _, inputs, out: found.append(out.shape))
    seen(encoder, torch.rand(1, *COLOR))
    handle.remove()
    assert found[0][2:] == (sides, sides)


@pytest.mark.parametrize(
    ("name", "least"), [("vgg16", 32), ("densenet121", 8), ("resnet50", 1), ("small", 1), ("dense-small", 1)]
)
def test_images_that_would_vanish_are_refused_in_one_sentence(name: str, least: int) -> None:
    encoder, width = built(name, (1, least, least))
    assert seen(encoder, torch.rand(2, 1, least, least)).shape[:2] == (2, width)
    if least > 1:
        wanted = rf"^backbone '{name}' takes images of at least {least} px a side, not 64x{least - 1}$"
        with pytest.raises(BenchError, match=wanted):
            build_part("backbone", name).build((3, 64, least - 1))


@pytest.mark.parametrize(
    ("sides", "side"), [((64, 64), 64), ((70, 66), 64), ((72, 40), 80), ((28, 28), 32), ((3, 5), 16)]
)
def test_the_vision_transformer_is_for_whole_patches_near_the_images_size(
    sides: tuple[int, int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def tiny(weights: None, image_size: int) -> nn.Module:
        asked.append(image_size)
        net: nn.Module = torchvision_import.models.VisionTransformer(image_size, 16, 1, 1, 8, 8)
        return net

    monkeypatch.setattr(torchvision_import.models, "vit_b_16", tiny)
    encoder, width = build_part("backbone", "vit-b16").build((1, *sides))
    assert (asked, width) == ([side], 8)
    assert seen(encoder, torch.rand(2, 1, *sides)).shape == (2, 8)
    patches = encoder.get_submodule("net.conv_proj").weight
    assert isinstance(patches, Tensor)
    assert patches.std().item() == pytest.approx((1 / 16**2) ** 0.5, rel=0.05)


def test_an_image_of_another_size_is_scaled_to_the_networks() -> None:
    encoder, images = Resized(nn.Flatten(), (4, 6)), torch.rand(2, 3, 9, 5)
    scaled = functional.interpolate(images, size=(4, 6), mode="bilinear")
    assert torch.equal(encoder(images), scaled.flatten(1))
    assert torch.equal(encoder(scaled), scaled.flatten(1))


# Dense


@pytest.mark.parametrize(
    ("name", "stride"), [("dense-small", 4), ("dilated-resnet18", 8), ("dilated-resnet50", 8)]
)
@pytest.mark.parametrize("shape", [COLOR, (3, 45, 50)], ids=str)
def test_the_map_of_features_is_a_fraction_of_the_image(name: str, stride: int, shape: Shape) -> None:
    encoder, width = encoder_of(name, COLOR)
    features = seen(encoder, torch.rand(2, *shape))
    sides = tuple(-(-side // stride) for side in shape[1:])
    assert features.shape == (2, width, *sides)
    decoder = build_part("backbone", name).decoder(width, 7)
    assert seen(decoder, features).shape == (2, 7, *sides)


@pytest.mark.parametrize("depth", [18, 50])
def test_dilation_gives_the_same_features_as_strides_in_a_finer_grid(depth: int) -> None:
    strided, _ = encoder_of(f"resnet{depth}", COLOR)
    dilated, _ = encoder_of(f"dilated-resnet{depth}", COLOR)  # drawn under the same seed
    maps: list[Tensor] = []
    handle = strided.get_submodule("layer4").register_forward_hook(lambda _, inputs, out: maps.append(out))
    images = torch.rand(2, 3, 64, 52)
    seen(strided, images)
    handle.remove()
    fine = seen(dilated, images)
    assert fine.shape[2:] == (8, 7)
    assert maps[0].shape[2:] == (2, 2)
    assert torch.allclose(fine[:, :, ::4, ::4], maps[0], atol=1e-4, rtol=1e-4)


def test_a_point_of_the_small_dense_map_sees_63_pixels() -> None:
    encoder, _ = built("dense-small", (1, 101, 101))
    for part in encoder.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.ones_(part.weight)
    images = torch.ones(1, 1, 101, 101, requires_grad=True)
    encoder.eval()(images)[0, 0, 13, 13].backward()
    assert images.grad is not None
    rows, columns = images.grad[0, 0].nonzero().unbind(1)
    assert {int(side.max() - side.min()) + 1 for side in (rows, columns)} == {63}


def test_the_small_dense_network_learns_to_tell_places_apart() -> None:
    torch.manual_seed(0)
    things = MAPS[0]
    net = MultiTaskNet(DenseSmall(width=8), (things,), (3, 24, 32))
    target = torch.zeros(8, 24, 32, dtype=torch.int64)
    for row, column in enumerate(torch.randint(20, (8,)).tolist()):
        target[row, 8:20, column : column + 12] = 1 + row % 2
    images = 0.2 * torch.rand(8, 3, 24, 32)
    images[:, 1] += 0.4 * (target == 1)
    images[:, 2] += 0.4 * (target == 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        things.loss(net(images)[0], target).backward()
        optimizer.step()
    with torch.no_grad():
        right = net.eval()(images)[0].argmax(1) == target
    assert right[target > 0].float().mean() > 0.9
    assert right[target == 0].float().mean() > 0.9


def test_a_backbone_without_a_map_is_no_backbone_for_maps() -> None:
    assert all(task.kind in DENSE for task in MAPS)
    with pytest.raises(BenchError, match="no map of features, which the dense task 'things' needs"):
        MultiTaskNet(Small(), MAPS, COLOR)


# Families


@pytest.mark.parametrize("shape", [COLOR, (1, 64, 64)], ids=str)
@pytest.mark.parametrize("name", [*FAMILY_NAMES, "torchvision:googlenet"])
def test_a_network_by_name_trains_all_its_parameters(name: str, shape: Shape) -> None:
    encoder, width = built(name, shape)
    assert encoder.training
    for part in encoder.modules():  # some start with blocks that do nothing, and so have no gradient yet
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
    features = encoder(torch.rand(4, *shape))
    assert features.shape == (4, width)
    check_all_is_trained(encoder, (features * torch.randn(features.shape)).sum())


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_vit"])
def test_a_size_a_network_cannot_take_is_refused_with_the_way_out(name: str) -> None:
    wanted = (
        rf"^backbone '{name}' cannot take images of 15x15 \(.+\); give it a size, such as {name}\(size=224\)$"
    )
    with pytest.raises(BenchError, match=wanted):
        built(name, (3, 15, 15))
    encoder, width = built(f"{name}(size=32)", (3, 15, 15))
    images = torch.rand(2, 3, 15, 15)
    scaled = functional.interpolate(images, size=(32, 32), mode="bilinear")
    assert torch.equal(seen(encoder, images), seen(encoder, scaled))
    assert seen(encoder, images).shape == (2, width)


def test_a_first_convolution_for_other_channels_has_the_variance_it_had() -> None:
    color, gray = (
        next(
            part for part in built("torchvision:squeezenet1_1", shape)[0].modules() if type(part) is nn.Conv2d
        )
        for shape in ((3, 64, 64), (2, 64, 64))
    )
    assert (color.in_channels, gray.in_channels) == (3, 2)
    assert (color.stride, color.padding) == (gray.stride, gray.padding)
    assert gray.weight.std().item() == pytest.approx(color.weight.std().item(), rel=0.1)


def test_a_tag_of_pretrained_weights_is_only_a_name() -> None:
    plain, tagged = (built(name, COLOR)[0] for name in ("timm:test_vit", "timm:test_vit.r160_in1k"))
    weights = [nn.utils.parameters_to_vector(net.parameters()) for net in (plain, tagged)]
    assert torch.equal(weights[0], weights[1])


def test_an_unknown_network_of_timm_is_refused_with_the_nearest() -> None:
    pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    with pytest.raises(
        BenchError, match=r"unknown backbone 'timm:resnet10'; did you mean 'timm:resnet10t'\?"
    ):
        build_part("backbone", "timm:resnet10")


def test_without_timm_its_family_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BenchError, match=r"needs the package timm.*; pip install timm"):
        build_part("backbone", "timm:resnet10t")


def test_a_long_name_of_a_network_is_shown_in_part() -> None:
    with pytest.raises(BenchError, match="did you mean 'torchvision:") as caught:
        build_part("backbone", f"torchvision:{'a' * 20_000}")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("backbone", [Small(width=4), DenseSmall(width=4)], ids=["small", "dense-small"])
def test_the_memory_layout_of_small_networks_changes_speed_not_results(backbone: Small | DenseSmall) -> None:
    images, results = torch.rand(6, 3, 20, 24), []
    for layout in (torch.channels_last, torch.contiguous_format):
        torch.manual_seed(0)
        encoder, _ = backbone.build((3, 20, 24))
        filters = [weight for weight in encoder.parameters() if weight.ndim == 4]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in filters)
        encoder.to(memory_format=layout)  # type: ignore[call-overload]
        features = encoder(images)
        gradients = torch.autograd.grad(features.square().mean(), [*encoder.parameters()])
        results.append([features, *gradients])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-6)
