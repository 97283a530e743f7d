"""MultiTaskNet: one encoder, one shared representation, one head per task."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bench.api import Backbone, DenseBackbone, Task
from bench.errors import BenchError
from bench.values import DENSE, CountPass, Precision, Shape, ignore_pass

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

REPRESENTATION = 256
"""Width of the shared representation (Yu et al., ICML 2025, appendix)."""


class MultiTaskNet(nn.Module):
    """An encoder and one head per task.

    Classification tasks use a shared representation: the encoder's features (averaged over the image if they
    are a map), a linear layer and ELU; their heads are linear. The linear heads are stored and computed as
    one layer, whose rows are theirs in the order of the tasks: forty layers cost ten times as much. Every
    dense task has a decoder of the encoder's map, whose output is scaled to the image's size.

    To save memory a batch can go through encoder and decoders in pieces, each of which is computed again for
    its gradient. Losses and gradients are those of the whole batch, but batch normalization sees one piece at
    a time.

    With the precision ``bf16``, encoder and decoders multiply in bfloat16 where torch's autocast does so;
    weights, heads, losses and gradients of weights stay float32.

    Source: Yu et al., ICML 2025 (MTL-UE), section 5.1 and appendix: ResNet-18 → 256 → ELU → heads; dense:
    one decoder per task on a shared dilated encoder
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[Task],
        shape: Shape,
        pieces: int = 1,
        precision: Precision = "float32",
    ) -> None:
        """Build a network for images [c h w] of this shape, which splits batches into ``pieces``.

        Raises:
            BenchError: when a task is dense and the backbone is not, or for a shape the backbone cannot take.
        """
        super().__init__()
        dense = [task.name for task in tasks if task.kind in DENSE]
        if dense and not backbone.dense:
            raise BenchError(f"{backbone} gives no map of features, which the dense task {dense[0]!r} needs")
        encoder, width = backbone.build(shape)
        self.encoder, self.width = encoder, width
        self._backbone = str(backbone)
        self._decoded = [task.kind in DENSE for task in tasks]
        self._outputs = [task.outputs for task in tasks if task.kind not in DENSE]
        self.representation: nn.Module = nn.Identity()
        self.heads: nn.Module = nn.Identity()
        if self._outputs:
            self.representation = nn.Sequential(nn.Linear(width, REPRESENTATION), nn.ELU())
            self.heads = nn.Linear(REPRESENTATION, sum(self._outputs))
        self.decoders = nn.ModuleList(
            cast("DenseBackbone", backbone).decoder(width, task.outputs)
            for task in tasks
            if task.kind in DENSE
        )
        self._pieces, self._precision = pieces, precision
        self.count_pass: CountPass = ignore_pass

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Return one output per task, [b o] or [b o h w], in the order of the tasks."""
        return self.apply_heads(self.encode(images), images)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d ..."]:
        """Return the input of all heads: the representation, or the encoder's map if a task is dense.

        Raises:
            BenchError: when the backbone writes to the images.
        """
        with self._reject_writes(images, "its input"):
            features = self._run_encoder(images)
        return features if any(self._decoded) else self._shared(features)

    def apply_heads(
        self, features: Float[Tensor, "b d ..."], images: Float[Tensor, "b c h w"]
    ) -> list[Tensor]:
        """Return the tasks' outputs, given the images and what `encode` returns for them."""
        if not any(self._decoded):
            return self._apply_linear_heads(features)
        linear = iter(() if all(self._decoded) else self._apply_linear_heads(self._shared(features)))
        with self._reject_writes(features, "the features, which other decoders read"):
            maps = iter([resize_to(self._run_part(part, features), images) for part in self.decoders])
        return [next(maps if dense else linear) for dense in self._decoded]

    def _apply_linear_heads(self, shared: Float[Tensor, "b d"]) -> list[Tensor]:
        """Return the outputs [b o] of every linear head."""
        return list(self.heads(shared).split(self._outputs, dim=1))

    @contextmanager
    def _reject_writes(self, given: Tensor, what: str) -> Iterator[None]:
        """Raise a `BenchError` that names the backbone if it writes to what others read too."""
        version = given._version
        yield
        if given._version != version:
            raise BenchError(f"backbone {self._backbone} writes to {what}; an operation there is in place")

    def _run_part(self, part: nn.Module, inputs: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return the output of the encoder or a decoder, in float32 whatever it multiplies in."""
        if self._precision == "float32":
            return self._run_in_pieces(part, inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return self._run_in_pieces(part, inputs).float()

    def _run_in_pieces(self, part: nn.Module, inputs: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        count = min(self._pieces, len(inputs) // 2)  # batch normalization cannot train on a single image
        if count < 2:
            return cast("Tensor", part(inputs))
        run: Callable[[Tensor], Tensor] = part
        if torch.is_grad_enabled():
            run = partial(
                checkpoint, part, use_reentrant=False, context_fn=partial(_checkpoint_contexts, part)
            )
        return torch.cat([run(piece) for piece in inputs.tensor_split(count)])

    def represent(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the representation: the input of the heads of classification tasks."""
        return self._shared(self._run_encoder(images))

    def _run_encoder(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d ..."]:
        features = self._run_part(self.encoder, images)
        self.count_pass(features, self.training)
        return features

    def _shared(self, features: Float[Tensor, "b d ..."]) -> Float[Tensor, "b d2"]:
        pooled = features.mean((2, 3)) if features.ndim == 4 else features
        shared: Tensor = self.representation(pooled)
        return shared

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the output of `encode` depends on: all but the heads'."""
        own = [] if any(self._decoded) else self.representation.parameters()
        return [*self.encoder.parameters(), *own]


def _checkpoint_contexts(
    part: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a part's first run and of its later runs on the same images."""
    return nullcontext(), PreserveBatchNormStatistics(part)


class PreserveBatchNormStatistics(AbstractContextManager[None]):
    """Keeps the running statistics of batch normalization unchanged; can be entered several times."""

    def __init__(self, part: nn.Module) -> None:
        norms = (module for module in part.modules() if isinstance(module, BATCH_NORMS))
        self._momenta = {norm: norm.momentum for norm in norms}

    def __enter__(self) -> None:
        for norm in self._momenta:
            norm.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for norm, momentum in self._momenta.items():
            norm.momentum = momentum


def resize_to(
    maps: Float[Tensor, "b o h w"], images: Float[Tensor, "b c h2 w2"]
) -> Float[Tensor, "b o h2 w2"]:
    """Return maps scaled to the images' size."""
    return functional.interpolate(maps, size=tuple(images.shape[2:]), mode="bilinear")
