"""Networks of regimes against LibMTL, against formulas written out, and what weightings see of them."""

import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import torchvision_import
from bench.api import Step
from bench.backbones.dense import DenseSmall
from bench.backbones.densenet import DenseNet121
from bench.backbones.resnet import ResNet18
from bench.backbones.small import Small
from bench.backbones.vgg import VGG16
from bench.catalog.build import build_part
from bench.regimes.contrastive import build_views, nt_xent
from bench.regimes.cross_stitch import CrossStitchUnit, StitchedEncoders, StitchedNet
from bench.regimes.mmoe import MixtureNet
from bench.regimes.mtan import AttentionBranch, AttentionNet, TappedEncoder
from bench.regimes.stages import pair_layers, split_at_poolings
from bench.tasks.classification import Classification
from bench.training.loop import losses_of_outputs
from bench.training.net import MultiTaskNet
from bench.weightings.task_gradients import parameter_gradients

SHAPE = (3, 16, 16)
TASKS = (
    Classification("two", ("a", "b")),
    Classification("three", ("a", "b", "c")),
    Classification("four", ("a", "b", "c", "d")),
)
NAMES = [task.name for task in TASKS]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def libmtl() -> ModuleType:
    """LibMTL's architectures; it asks torchvision for a function where torchvision had it until 2021."""
    torchvision_import.import_torchvision()
    moved: Any = ModuleType("torchvision.models.utils")
    moved.load_state_dict_from_url = torch.hub.load_state_dict_from_url
    sys.modules.setdefault(moved.__name__, moved)
    return pytest.importorskip("LibMTL.architecture", reason="LibMTL is not installed (pip install LibMTL)")


def draw_images(count: int = 4, shape: Sequence[int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def build_mixture(experts: int = 2) -> MixtureNet:
    torch.manual_seed(0)
    return MixtureNet(Small(width=2), TASKS, SHAPE, 1, "float32", experts)


def split_head(net: MultiTaskNet) -> list[nn.Linear]:
    """The heads of a network as layers of their own, with its weights."""
    heads: Any = net.heads
    layers = []
    outputs = [task.outputs for task in TASKS]
    for weight, bias in zip(heads.weight.split(outputs), heads.bias.split(outputs), strict=True):
        layer = nn.Linear(weight.shape[1], len(weight))
        layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        layers.append(layer)
    return layers


# Multi-gate mixture of experts


def split_experts(net: Any) -> list[nn.Sequential]:
    """The experts of a mixture: an encoder, a linear layer and ELU each; the encoders are the net's own."""
    layers = []
    for encoder, weight, bias in zip(
        net.encoder.encoders, net.representation[0].weight, net.representation[0].bias, strict=True
    ):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        layers.append(nn.Sequential(encoder, layer, nn.ELU()))
    return layers


def test_a_mixture_is_that_of_libmtl(libmtl: ModuleType) -> None:
    net = build_mixture()
    experts, heads = iter(split_experts(net)), split_head(net)
    other = libmtl.MMoE(
        NAMES,
        lambda: next(experts),
        nn.ModuleDict(zip(NAMES, heads, strict=True)),
        rep_grad=False,
        multi_input=False,
        device=CPU,
        img_size=list(SHAPE),
        num_experts=[2],
    )
    gates: Any = net.gates
    for task, weight, bias in zip(NAMES, gates.weight.split(2), gates.bias.split(2), strict=True):
        other.gate_specific[task][0].load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    images = draw_images()
    ours, expected = net.eval()(images), other.eval()(images)
    for task, output in zip(NAMES, ours, strict=True):
        assert torch.allclose(output, expected[task], atol=1e-6)
    sum(output.square().sum() for output in ours).backward()
    mixed, own = gates.weight.grad, net.encoder.encoders[1][0].weight.grad.clone()  # type: ignore[union-attr,operator,index]
    net.zero_grad()
    sum(output.square().sum() for output in expected.values()).backward()
    assert torch.allclose(mixed, torch.cat([other.gate_specific[t][0].weight.grad for t in NAMES]), atol=1e-5)
    assert torch.allclose(own, net.encoder.encoders[1][0].weight.grad, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr,arg-type,index]


def test_a_mixture_mixes_representations_by_the_softmax_of_its_gates() -> None:
    net = build_mixture(experts=3).eval()
    images = draw_images()
    made = [expert(images) for expert in split_experts(net)]
    logits = net.gates(images.flatten(1))
    for number, (head, output) in enumerate(zip(split_head(net), net(images), strict=True)):
        powers = logits[:, 3 * number : 3 * number + 3].exp()
        shares = powers / powers.sum(1, keepdim=True)
        mixture = sum(shares[:, [place]] * one for place, one in enumerate(made))
        assert torch.allclose(output, head(mixture), atol=1e-5)


# Cross-stitch networks


def short_resnet() -> Any:
    models = torchvision_import.models
    net = models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1])
    net.fc = nn.Identity()
    return net


def set_unit(unit: Any, weights: Tensor) -> None:
    """Give a unit the same weights [task, task it reads] in every channel."""
    unit.weights.data.copy_(weights[:, :, None].expand_as(unit.weights))


def test_stitched_networks_are_those_of_libmtl(libmtl: ModuleType) -> None:
    """LibMTL has a weight per source, whoever reads it, behind three of the stages."""
    from LibMTL.architecture.Cross_stitch import _transform_resnet_cross

    torch.manual_seed(0)
    encoders = [short_resnet() for _ in range(2)]
    other = _transform_resnet_cross(encoders, ["a", "b"], CPU)
    other.cross_unit.data.uniform_(0.2, 1.0)
    ours = StitchedEncoders(encoders, SHAPE, own=0.9)
    for unit in ours.units:
        set_unit(unit, torch.eye(2))
    for unit, weights in zip(list(ours.units)[1:4], other.cross_unit, strict=False):
        set_unit(unit, weights.detach().expand(2, 2))
    images = draw_images(shape=(3, 32, 32))
    expected = torch.cat([maps.mean((2, 3)) for maps in other.eval()(images)], dim=1)
    assert torch.allclose(ours.eval()(images), expected, rtol=1e-4, atol=1e-5)


def test_a_unit_combines_channel_by_channel() -> None:
    unit = CrossStitchUnit(tasks=3, channels=2, own=0.8)
    assert torch.allclose(unit.weights.sum(1), torch.ones(3, 2))
    assert torch.allclose(unit.weights[0, :, 1], torch.tensor([0.8, 0.1, 0.1]))
    unit.weights.data.copy_(torch.rand(3, 3, 2))
    given = torch.rand(4, 3, 2, 5, 5)
    made = unit(given)
    for task in range(3):
        for channel in range(2):
            wanted = sum(unit.weights[task, other, channel] * given[:, other, channel] for other in range(3))
            assert torch.allclose(made[:, task, channel], wanted, atol=1e-6)


def test_units_of_one_task_change_nothing() -> None:
    torch.manual_seed(0)
    net = StitchedNet(Small(width=2), TASKS[1:2], SHAPE, 1, "float32", 0.9).eval()
    torch.manual_seed(0)
    alone = MultiTaskNet(Small(width=2), TASKS[1:2], SHAPE).eval()
    alone.encoder.load_state_dict(Small(width=2).build(SHAPE)[0].state_dict())
    stages: Any = net.encoder.stages
    layers = [layer for stage in stages for part in stage for layer in part]
    images = draw_images()
    assert torch.allclose(nn.Sequential(*layers, nn.Flatten())(images), net.encoder(images), atol=1e-6)


def test_a_stitched_head_reads_its_own_task() -> None:
    torch.manual_seed(0)
    net = StitchedNet(Small(width=2), TASKS, SHAPE, 1, "float32", 0.9).eval()
    features = net.encode(draw_images())
    for number, (head, output) in enumerate(
        zip(split_head(net), net.apply_heads(features, draw_images()), strict=True)
    ):
        assert torch.allclose(output, head(features[:, 256 * number : 256 * number + 256]), atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "ends"),
    [
        (Small(width=2), ["MaxPool2d"] * 3 + ["GridMeans"]),
        (VGG16(), ["MaxPool2d"] * 4 + ["AdaptiveAvgPool2d"]),
        (ResNet18(), ["MaxPool2d"] + ["Sequential"] * 3 + ["AdaptiveAvgPool2d"]),
        (DenseNet121(), []),
    ],
    ids=str,
)
def test_stages_end_at_poolings_and_groups(backbone: Any, ends: list[str]) -> None:
    encoder, _ = backbone.build((3, 32, 32))
    stages, tail = split_at_poolings(encoder, (3, 32, 32))
    if not ends:
        assert stages == [encoder]
        return
    assert [type(stage[-1]).__name__ for stage in stages] == ends  # type: ignore[index]
    images = draw_images(2, (3, 32, 32))
    rebuilt = nn.Sequential(*stages, tail).eval()(images).flatten(1)
    assert torch.equal(rebuilt, encoder.eval()(images))


# Multi-task attention


def test_attention_is_that_of_libmtl(libmtl: ModuleType) -> None:
    """LibMTL has a residual block in place of the paper's convolution; ours gets its blocks."""
    from LibMTL.architecture.MTAN import _transform_resnet_MTAN

    torch.manual_seed(0)
    resnet: Any = torchvision_import.models.resnet18(weights=None)
    encoder = nn.Sequential(*list(resnet.children())[:-2])
    ours = TappedEncoder(encoder, (3, 32, 32), "resnet18")
    branch: Any = AttentionBranch(ours, nn.Identity())
    resnet.feature_dim = 512
    other = _transform_resnet_MTAN(resnet, ["a"], CPU)
    for stage in range(4):
        own = branch.attention[stage].state_dict()
        other.encoder_att[str(stage)][0].load_state_dict(own)
    branch.passes = other.encoder_block_att
    images = draw_images(3, (3, 32, 32))
    (expected,) = other.eval()(images)
    made = branch.eval()(ours.eval()(images))
    assert torch.allclose(made, expected, rtol=1e-4, atol=1e-6)
    first = next(iter(encoder.parameters()))
    gradients = [torch.autograd.grad(maps.square().mean(), first)[0] for maps in (made, expected)]
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-7)


def test_masks_are_those_of_the_paper() -> None:
    """The data flow of Eq. 1 and 2, written out for two stages of convolutions."""
    torch.manual_seed(0)
    net = AttentionNet(DenseSmall(width=2), TASKS[:1], SHAPE, 1, "float32").eval()
    layers = list(DenseSmall(width=2).build(SHAPE)[0])  # type: ignore[arg-type]
    blocks = [nn.Sequential(*layers[place : place + 3]) for place in range(0, len(layers), 3)]
    flat = [each for part in net.encoder.parts for each in part]  # type: ignore[union-attr,operator]
    assert [type(one) for one in flat] == [type(one) for block in blocks for one in block]
    maps, image = [], draw_images()
    for place in range(0, len(flat), 3):
        image = nn.Sequential(*flat[place : place + 3])(image)
        maps.append(image)
    branch: Any = net.branches[0]
    assert isinstance(branch.attention[0][-1], nn.Sigmoid)
    kept = branch.attention[0](maps[1]) * maps[2]
    kept = branch.attention[1](torch.cat([maps[3], branch.passes[0](kept)], dim=1)) * maps[4]
    assert torch.allclose(branch.attend(net.encode(draw_images())), kept, atol=1e-6)


def test_a_network_without_stages_is_refused_by_name() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert pair_layers(net, SHAPE)[1] == []
    with pytest.raises(Exception, match="regime 'mtan' finds no stages in the encoder of backbone odd"):
        TappedEncoder(net, SHAPE, "odd")


# What weightings see


@pytest.mark.parametrize(
    ("regime", "backbone"),
    [("mmoe", "small(width=2)"), ("cross-stitch", "small(width=2)"), ("mtan", "dense-small(width=2)")],
)
def test_tasks_gradients_are_those_of_their_losses(regime: str, backbone: str) -> None:
    torch.manual_seed(0)
    net = build_part("regime", regime).build(build_part("backbone", backbone), TASKS, SHAPE, 1, "float32")
    targets = {task.name: torch.arange(4) % task.classes for task in TASKS}
    images = draw_images()
    features = net.encode(images)
    losses = losses_of_outputs(net.apply_heads(features, images), TASKS, targets)
    shared = net.shared_parameters()
    rows = [torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) for loss in losses]
    expected = torch.stack(
        [
            torch.cat(
                [
                    (p.new_zeros(p.shape) if g is None else g).flatten()
                    for g, p in zip(row, shared, strict=True)
                ]
            )
            for row in rows
        ]
    )
    of_sum = torch.autograd.grad(losses.sum(), [*net.parameters()], retain_graph=True)
    step = Step(losses, torch.ones(3, dtype=torch.bool), features, shared, losses.detach)
    assert torch.allclose(parameter_gradients(step), expected, rtol=1e-3, atol=1e-6)
    below = {id(parameter) for parameter in shared}
    for parameter, gradient in zip(net.parameters(), of_sum, strict=True):
        if id(parameter) not in below:  # gates, attention modules and heads: each task's own
            assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


# Contrastive learning


def loss_by_hand(projected: Tensor, temperature: float) -> float:
    """Eq. 1 of SimCLR, pair by pair."""
    count, total = len(projected), 0.0
    for i in range(count):
        scores = [
            math.exp(float(functional.cosine_similarity(projected[i], projected[k], dim=0)) / temperature)
            for k in range(count)
        ]
        partner = (i + count // 2) % count
        total -= math.log(scores[partner] / sum(score for k, score in enumerate(scores) if k != i))
    return total / count


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_contrastive_loss_is_that_of_simclr(temperature: float) -> None:
    projected = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert float(nt_xent(projected, temperature)) == pytest.approx(
        loss_by_hand(projected, temperature), rel=1e-5
    )


def test_the_contrastive_loss_of_views_that_are_all_alike_is_that_of_guessing() -> None:
    assert float(nt_xent(torch.ones(6, 4), 0.5)) == pytest.approx(math.log(5))
    assert float(nt_xent(torch.zeros(4, 4), 0.5)) == pytest.approx(math.log(3))


def ramp_slopes(flip: bool, channels: int) -> Tensor:
    """The signs of right minus left, of views of an image that gets brighter to the right."""
    torch.manual_seed(0)
    ramp = torch.linspace(0.3, 0.6, 16).expand(64, channels, 16, 16)
    views = build_views((channels, 16, 16), flip)(ramp)
    assert views.shape == ramp.shape
    assert views.isfinite().all()
    assert len(views.flatten(1).unique(dim=0)) > 60, "views are drawn for every image"
    return (views[..., 8:].mean((1, 2, 3)) - views[..., :8].mean((1, 2, 3))).sign()


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_mirrored_only_where_the_dataset_allows_it(channels: int) -> None:
    assert (ramp_slopes(False, channels) == 1).all()
    assert 16 < int((ramp_slopes(True, channels) == -1).sum()) < 48
