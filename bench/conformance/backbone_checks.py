"""The checks of a backbone."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bench.api import DenseBackbone, Task
from bench.catalog.choice import Choice
from bench.conformance.part import Check, ContractError, PartUnderTest
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.training.net import MultiTaskNet
from bench.values import Shape

LABELS = (Classification("two", ("a", "b")), Classification("four", ("a", "b", "c", "d")))
MAPS = (Segmentation("things", ("a", "b", "c")), Depth("depth", 1.0, 9.0), Normals("normals"))

COLOR_CASE = "color images"

SHAPES: dict[str, Shape] = {COLOR_CASE: (3, 64, 64), "gray images of odd sides": (1, 49, 35)}
"""Case → shape of the images that the network is built for."""


class BackboneUnderTest(PartUnderTest):
    """A backbone, built once for the checks that do not train it."""

    def __init__(self, axis: str, choice: Choice | str) -> None:
        super().__init__(axis, choice)
        self.encoder = cache(self._build)

    def _build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder in evaluation mode and its width, drawn under seed 0."""
        torch.manual_seed(0)
        encoder, width = self.part.build(shape)
        return encoder.eval(), width

    def reason_to_skip(self, case: str) -> str | None:
        """Return why a case does not apply: the backbone may refuse images of unusual sizes."""
        if case == COLOR_CASE:
            return None
        try:
            self.encoder(SHAPES[case])
        except BenchError as error:
            return f"it says: {error}"
        return None


def trains_every_parameter(tested: BackboneUnderTest, case: str) -> None:
    """Check a step on labels of two and of four classes, for a dense one on maps too."""
    torch.manual_seed(0)
    shape = SHAPES[case]
    tasks: tuple[Task, ...] = (*LABELS, *MAPS) if tested.part.dense else LABELS
    net = MultiTaskNet(tested.part, tasks, shape)
    for module in net.modules():  # some start with blocks that do nothing, and so have no gradient yet
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    outputs = net(torch.rand(4, *shape))
    losses = [_loss(task, out, shape) for task, out in zip(tasks, outputs, strict=True)]
    torch.stack(losses).sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            raise ContractError(f"its parameter {name} is not trained: it gets no gradient")
        if not parameter.grad.isfinite().all():
            raise ContractError(f"the gradient of its parameter {name} is not finite")


def _loss(task: Task, outputs: Tensor, shape: Shape) -> Tensor:
    count, sides = len(outputs), shape[1:]
    wanted = (count, task.outputs, *(sides if task.kind != "classification" else ()))
    if outputs.shape != wanted:
        raise ContractError(f"a network with it returns outputs {tuple(outputs.shape)}, not {wanted}")
    if task.kind == "classification":
        return task.loss(outputs, torch.arange(count) % task.classes)
    if task.kind == "segmentation":
        return task.loss(outputs, torch.randint(task.classes, (count, *sides)))
    if task.kind == "depth":
        return task.loss(outputs, 1 + torch.rand(count, 1, *sides))
    return task.loss(outputs, functional.normalize(torch.randn(count, 3, *sides)))


def returns_features_of_each_image(tested: BackboneUnderTest, case: str) -> None:
    """Check the shape of the features, and that they do not depend on the rest of the batch."""
    encoder, width = tested.encoder(SHAPES[case])
    torch.manual_seed(1)
    images = torch.rand(3, *SHAPES[case])
    features = _encode(encoder, images)
    dimensions = 4 if tested.part.dense else 2
    if features.shape[:2] != (3, width) or features.ndim != dimensions:
        raise ContractError(f"it says {width} features and returns {tuple(features.shape)} for three images")
    alone = torch.cat([_encode(encoder, image[None]) for image in images])
    if (features - alone).abs().max() >= 0.01 * (features[0] - features[1]).abs().max():
        raise ContractError("in evaluation mode, the features of an image depend on the rest of its batch")


def takes_images_before_their_crop(tested: BackboneUnderTest, _: str) -> None:
    """Check images that are larger than those it was built for."""
    encoder, width = tested.encoder(SHAPES[COLOR_CASE])
    if _encode(encoder, torch.rand(1, 3, 70, 66)).shape[:2] != (1, width):
        raise ContractError("built for 64x64 images, it returns other features for 70x66 ones")


def is_initialized_by_the_seed(tested: BackboneUnderTest, case: str) -> None:
    """Check that every network is new, and that its weights depend on torch's generator alone."""
    vectors = []
    first, _ = tested.encoder(SHAPES[case])
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder, _ = tested.part.build(SHAPES[case])
        vectors.append(_concatenate_weights(encoder))
        if {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in encoder.parameters()}:
            raise ContractError("two networks share parameters")
    if not torch.equal(_concatenate_weights(first), vectors[0]):
        raise ContractError("built again with the same seed, it has other weights")
    if torch.equal(*vectors):
        raise ContractError("built with another seed, it has the same weights")


def _concatenate_weights(net: nn.Module) -> Float[Tensor, " p"]:
    """Return all weights as one vector; filters may be stored in any layout."""
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def decodes_maps(tested: BackboneUnderTest, case: str) -> str | None:
    """Check the decoder of a dense backbone."""
    if not tested.part.dense:
        return "it is not for dense tasks"
    if not isinstance(tested.part, DenseBackbone):
        raise ContractError("it says dense = True, but has no decoder(features, outputs)")
    encoder, width = tested.encoder(SHAPES[case])
    features = _encode(encoder, torch.rand(2, *SHAPES[case]))
    outputs = _encode(tested.part.decoder(width, 7), features)
    if outputs.ndim != 4 or outputs.shape[:2] != (2, 7):
        raise ContractError(f"its decoder with 7 outputs returns {tuple(outputs.shape)} for two images")
    return None


@torch.no_grad()
def _encode(encoder: nn.Module, images: Tensor) -> Tensor:
    features: Tensor = encoder.eval()(images)
    return features


BACKBONE_CHECKS = (
    Check("trains every parameter", trains_every_parameter, tuple(SHAPES)),
    Check("returns features of each image by itself", returns_features_of_each_image, tuple(SHAPES)),
    Check("takes images before their crop", takes_images_before_their_crop),
    Check("is initialized by the seed", is_initialized_by_the_seed, (COLOR_CASE,)),
    Check("decodes features to maps", decodes_maps, tuple(SHAPES)),
)
"""The contract of a backbone, in the order in which it is checked."""
