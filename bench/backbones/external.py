"""Any classification network of timm or torchvision, by its name there."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import torch
from annotated_types import Ge
from torch import nn

from bench import torchvision_import
from bench.backbones.surgery import Resized, replace_input_channels
from bench.errors import BenchError, find_similar_name, format_input
from bench.values import Shape


@dataclass(frozen=True)
class _LibraryModel(ABC):
    """A network that a library builds by its name.

    Attributes:
        size: side of the square that images are scaled to; None: images are not scaled.
    """

    model: str
    size: Annotated[int, Ge(1)] | None = None
    version: ClassVar[int] = 1
    dense: ClassVar[bool] = False
    family: ClassVar[str]

    def __post_init__(self) -> None:
        known = self._known()
        if self.model not in known:
            # There are hundreds of names; the nearest one helps more than a list.
            near = find_similar_name(self.model, known, similarity=0)
            name = format_input(f"{self.family}:{self.model}")
            raise BenchError(f"unknown backbone {name}; did you mean '{self.family}:{near}'?")

    def build(self, shape: Shape) -> tuple[nn.Module, int]:
        """Return the encoder [b c h w] → [b d], the network without its last layer, and its width.

        A network for images of one size is built for the size of these, and scales other images to it.

        Raises:
            BenchError: when the library's network cannot take images of this shape.
        """
        channels, height, width = shape
        sides = (height, width) if self.size is None else (self.size, self.size)
        try:
            net, fixed = self._create(channels, sides)
            features = _count_features(net, (channels, *sides))
        except Exception as error:  # the libraries raise errors of many types
            raise BenchError(
                f"backbone '{self.family}:{self.model}' cannot take images of {sides[0]}x{sides[1]} "
                f"({_first_line(error)}); give it a size, such as {self.family}:{self.model}(size=224)"
            ) from error
        return Resized(net, sides) if fixed or self.size is not None else net, features

    @abstractmethod
    def _known(self) -> Sequence[str]:
        """Return all names of the library."""

    @abstractmethod
    def _create(self, channels: int, sides: tuple[int, int]) -> tuple[nn.Module, bool]:
        """Return a network without its classifier, and whether it is for images of this size only."""


def _count_features(net: nn.Module, shape: Shape) -> int:
    """Return the number of features of a network; the libraries do not report it reliably."""
    net.eval()
    with torch.no_grad():
        width: int = net(torch.zeros(1, *shape)).shape[1]
    net.train()
    return width


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


@dataclass(frozen=True)
class TimmModel(_LibraryModel):
    """A network of timm by its name there, ``timm:resnet10t`` say, untrained.

    A name may end in the tag of pretrained weights, which are not loaded: it is the same network.

    Source: Wightman, 2019, PyTorch Image Models, github.com/huggingface/pytorch-image-models
    """

    family: ClassVar[str] = "timm"

    def _known(self) -> Sequence[str]:
        timm = _timm()
        return [*timm.list_models(), *timm.list_pretrained()]

    def _create(self, channels: int, sides: tuple[int, int]) -> tuple[nn.Module, bool]:
        def create(**options: Any) -> nn.Module:
            net: nn.Module = _timm().create_model(
                self.model, pretrained=False, num_classes=0, in_chans=channels, **options
            )
            return net

        try:
            return create(img_size=sides), True
        except TypeError:  # no such parameter: it takes images of any size
            return create(), False


def _timm() -> Any:
    torchvision_import.import_torchvision()  # timm imports torchvision
    try:
        import timm
    except ModuleNotFoundError as error:
        raise BenchError(
            "a backbone 'timm:...' needs the package timm, which is not installed; pip install timm"
        ) from error
    return timm


_WITHOUT_AUXILIARY: Final = {"aux_logits": False, "init_weights": True}
"""Options of two networks that have auxiliary classifiers by default, and warn without the second one."""


@dataclass(frozen=True)
class TorchvisionModel(_LibraryModel):
    """A network of torchvision by its name there, ``torchvision:convnext_tiny`` say, untrained.

    It must be a classification network. For images without three channels the first convolution is replaced:
    its weights are normal, with the variance of the old ones.

    Source: TorchVision maintainers and contributors, 2016, github.com/pytorch/vision
    """

    family: ClassVar[str] = "torchvision"

    def _known(self) -> Sequence[str]:
        return torchvision_import.models.list_models(module=torchvision_import.models)  # type: ignore[no-any-return]

    def _create(self, channels: int, sides: tuple[int, int]) -> tuple[nn.Module, bool]:
        sized = self._sized(sides)
        auxiliary = _WITHOUT_AUXILIARY if self.model in ("googlenet", "inception_v3") else {}
        net: nn.Module = torchvision_import.models.get_model(self.model, weights=None, **sized, **auxiliary)
        replace_input_channels(net, channels)
        *_, classifier = (
            name for name, part in net.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)
        )
        net.set_submodule(classifier, nn.Identity())
        return net, bool(sized)

    def _sized(self, sides: tuple[int, int]) -> dict[str, Any]:
        if self.model.startswith("vit_"):
            return {"image_size": sides[0]}
        return {"input_size": sides} if self.model == "maxvit_t" else {}
