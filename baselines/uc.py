"""UC: unlearnable clusters, an attack that does not know the labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from baselines.crafting.loop import (
    LossOfDelta,
    ObjectiveHooks,
    PerturberHooks,
    State,
    add_delta,
    craft_noise,
)
from baselines.crafting.surrogate_training import freeze_snapshots, perturb_batch, representation_of
from bench.api import CraftContext, Noise, Norm
from bench.training.augmentation import augment
from bench.training.loaders import iterate_batches
from bench.values import Batch, Split


@dataclass(frozen=True)
class UC:
    """Unlearnable clusters: one pattern per cluster of images moves their features to another cluster.

    It uses no labels, so it works for any number of tasks. Images are clustered by k-means on a network's
    features; for every cluster a generator with one fixed random input makes the pattern.

    Source: Zhang et al., CVPR 2023, arXiv:2301.01217, Alg. 1

    Departs from the paper: the features are those of a network trained on the clean data, since none is
    downloaded (the paper takes CLIP's or a ResNet-50's); a pattern is trained on its own cluster's images,
    all clusters in one pass; generators have two residual blocks at the image's resolution instead of six at
    a quarter of it; the budget is 8/255, there 16/255.

    Attributes:
        clusters: number of clusters (p).
        rounds: passes over the training set.
        batch: images per step.
        learning_rate: the generators', Adam with a cosine schedule.
        width: channels of a generator.
    """

    clusters: Annotated[int, Ge(2)] = 10
    rounds: Annotated[int, Ge(1)] = 50
    batch: Annotated[int, Ge(1)] = 256
    learning_rate: Annotated[float, Gt(0)] = 1e-4
    width: Annotated[int, Ge(1)] = 32
    needs_surrogate: ClassVar[bool] = True
    norm: ClassVar[Norm | None] = "linf"
    dense: ClassVar[bool] = True
    version: ClassVar[int] = 2
    resumable: ClassVar[bool] = True
    quick_params: ClassVar[dict[str, object]] = {"clusters": 3, "rounds": 2, "batch": 20, "width": 4}

    def craft(self, train: Split, context: CraftContext) -> Noise:
        """Craft one pattern per cluster."""
        (net,) = freeze_snapshots(context.surrogate_snapshots(1)[-1:], train, context, "image")
        centers, member = _cluster_images(net, train, self.clusters, context.device)
        channels, height, width = train.images.shape[1:]
        patterns = ClusterPatterns(
            [PatternGenerator(channels, height, width, self.width) for _ in centers],
            member,
            epsilon=context.epsilon,
            learning_rate=self.learning_rate,
            rounds=self.rounds,
            device=context.device,
        )
        return craft_noise(
            train,
            context,
            ClusterShift(context, net, centers, member),
            patterns,
            batch_size=self.batch,
            rounds=self.rounds,
            shuffle=True,
        )


@torch.no_grad()
def _cluster_images(
    net: nn.Module, train: Split, clusters: int, device: torch.device
) -> tuple[Float[Tensor, "p d"], Int64[Tensor, " n"]]:
    """Return the centers of the images' features and the cluster of every image."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    features = torch.cat(
        [
            representation_of(net)(batch.images).cpu()
            for batch in iterate_batches(train, 512, device, shuffle=False)
        ]
    )
    distinct = len(features.unique(dim=0))
    seed = int(torch.randint(2**31, ()))
    with threadpool_limits(limits=1):  # one thread's order of summation: the same on every machine
        means = KMeans(min(clusters, distinct), n_init=10, random_state=seed).fit(features.double().numpy())
    centers = torch.from_numpy(means.cluster_centers_).float().to(device)
    return centers, torch.from_numpy(means.labels_).long()


class PatternGenerator(nn.Module):
    """A pattern in [-1, 1] from one fixed random image; its weights are what is trained."""

    def __init__(self, channels: int, height: int, width: int, inner: int) -> None:
        super().__init__()
        self.register_buffer("seed", torch.rand(1, channels, height, width))
        self.enter = nn.Conv2d(channels, inner, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inner, inner, 3, padding=1),
                nn.InstanceNorm2d(inner),
                nn.ReLU(inplace=True),
                nn.Conv2d(inner, inner, 3, padding=1),
                nn.InstanceNorm2d(inner),
            )
            for _ in range(2)
        )
        self.leave = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self) -> Float[Tensor, "1 c h w"]:
        """Return the pattern."""
        features = self.enter(self.seed)
        for block in self.blocks:
            features = functional.relu(features + block(features))
        return torch.tanh(self.leave(features))


class ClusterPatterns(PerturberHooks):
    """One generated pattern per cluster."""

    def __init__(
        self,
        generators: Sequence[PatternGenerator],
        member: Int64[Tensor, " n"],
        *,
        epsilon: float,
        learning_rate: float,
        rounds: int,
        device: torch.device,
    ) -> None:
        """``member`` is the cluster of every training image."""
        self._generators = nn.ModuleList(generators).to(device)
        self._member = member
        self._epsilon = epsilon
        self._optimizer = torch.optim.Adam(self._generators.parameters(), lr=learning_rate, weight_decay=5e-4)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, rounds, eta_min=1e-6)

    def _patterns(self) -> Float[Tensor, "p c h w"]:
        # Twice the budget before clamping, so that most pixels reach the budget, as in the original.
        drawn = torch.cat([generator() for generator in self._generators])
        return (2 * self._epsilon * drawn).clamp(-self._epsilon, self._epsilon)

    @torch.no_grad()
    def delta(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Return the patterns of these samples' clusters."""
        return self._patterns()[self._member[batch.index].to(batch.images.device)]

    def update(self, batch: Batch, losses: Sequence[LossOfDelta]) -> None:
        """Take one step of the generators."""
        delta = self._patterns()[self._member[batch.index].to(batch.images.device)]
        self._optimizer.zero_grad(set_to_none=True)
        sum(loss(delta) for loss in losses).backward()  # type: ignore[union-attr]
        self._optimizer.step()

    def finish_round(self) -> None:
        """Step the learning rate's schedule."""
        self._schedule.step()

    def craft_state(self) -> State:
        """Return the generators and their optimizer."""
        return {
            "generators": self._generators.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_craft_state(self, state: State) -> None:
        """Resume from a state."""
        self._generators.load_state_dict(state["generators"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


class ClusterShift(ObjectiveHooks):
    """Move every image's features to the center of the next cluster."""

    def __init__(
        self,
        context: CraftContext,
        net: nn.Module,
        centers: Float[Tensor, "p d"],
        member: Int64[Tensor, " n"],
    ) -> None:
        self._net, self._centers, self._member = net, centers, member
        self._augmentation = context.augmentation

    def _aimed_clusters(self, batch: Batch) -> Tensor:
        return ((self._member[batch.index] + 1) % len(self._centers)).to(batch.images.device)

    def losses(self, batch: Batch) -> Sequence[LossOfDelta]:
        """Return KL(softmax of the aimed center ‖ softmax of the features)."""
        return [partial(self._loss, batch)]

    def _loss(self, batch: Batch, delta: Tensor) -> Tensor:
        seen = augment(perturb_batch(batch, delta), self._augmentation, ())
        features = representation_of(self._net)(seen.images).log_softmax(1)
        return functional.kl_div(
            features, self._centers[self._aimed_clusters(batch)].softmax(1), reduction="batchmean"
        )

    def error(self, batch: Batch, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return 1 for every image whose features are not nearest to the aimed center yet."""
        features = representation_of(self._net)(add_delta(batch.images, delta))
        return (torch.cdist(features, self._centers).argmin(1) != self._aimed_clusters(batch)).float()
