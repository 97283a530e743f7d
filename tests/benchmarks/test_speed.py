"""Training, regularizers and single-task networks beside what a straightforward script does."""

import copy
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from bench.backbones.small import Small
from bench.datasets.digits import Digits
from bench.defenses.none import NoDefense
from bench.training.loaders import to_device_if_it_fits
from bench.training.loop import train_epochs
from bench.training.net import MultiTaskNet
from bench.values import Recipe
from bench.weightings.ew import EqualWeights
from mtlue.regularizers import embedding_regularizers
from tests.benchmarks.side_by_side import SideBySide


def test_training_beside_the_bare_loop(
    side_by_side: SideBySide, device: torch.device, tmp_path: Path
) -> None:
    data = Digits(train=2000, test=10).load(None, tmp_path)
    train = to_device_if_it_fits(data.train, device)
    nets = [MultiTaskNet(Small(), data.tasks, (3, 32, 32)).to(device) for _ in range(2)]
    recipe = Recipe(epochs=1, batch=128)
    balancer = EqualWeights().start(data.tasks, device)
    optimizer = torch.optim.Adam(nets[1].parameters(), lr=1e-3, weight_decay=1e-4)

    def ours() -> None:
        list(
            train_epochs(nets[0], train, data.tasks, recipe, data.augmentation, balancer, NoDefense(), device)
        )

    def bare_loop() -> None:
        nets[1].train()
        for rows in torch.randperm(len(train), device=device).split(128):
            images = train.images[rows].float() / 255
            losses = []
            for task, out in zip(data.tasks, nets[1](images), strict=True):
                target = train.targets[task.name][rows]
                if out.shape[1] == 1:
                    losses.append(functional.binary_cross_entropy_with_logits(out[:, 0], target.float()))
                else:
                    losses.append(functional.cross_entropy(out, target))
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            torch.nn.utils.clip_grad_norm_(nets[1].parameters(), 5.0)
            optimizer.step()

    side_by_side("victim training, digits, small", plain=bare_loop, ours=ours, target=0.97)


EMBEDDINGS = [torch.randn(2, 16 * 16 * 16) for _ in range(40)]


def test_regularizers(side_by_side: SideBySide) -> None:
    def loop_over_pairs() -> None:
        rows = [(task, row) for task, matrix in enumerate(EMBEDDINGS) for row in matrix]
        intra, inter = [], []
        for i, (task, row) in enumerate(rows):
            for other, column in rows[i + 1 :]:
                cosine = functional.cosine_similarity(row, column, dim=0)
                (intra if task == other else inter).append(cosine)
        torch.stack(intra).mean(), torch.stack(inter).abs().mean()

    side_by_side(
        "regularizers, 40 binary tasks, beside a loop over pairs",
        plain=loop_over_pairs,
        ours=lambda: embedding_regularizers(EMBEDDINGS),
        target=50,
        rounds=3,
    )


SINGLE_TASK_NETS = 8
BATCH = torch.rand(128, 3, 32, 32), torch.randint(0, 2, (128, SINGLE_TASK_NETS)).float()


def single_task_nets(device: torch.device) -> list[torch.nn.Module]:
    """As many small networks with one binary output each."""
    nets: list[torch.nn.Module] = []
    for _ in range(SINGLE_TASK_NETS):
        encoder, width = Small(width=8).build((3, 32, 32))
        nets.append(torch.nn.Sequential(encoder, torch.nn.Linear(width, 1)).to(device).train())
    return nets


def test_single_task_networks(side_by_side: SideBySide, device: torch.device) -> None:
    nets, (images, labels) = single_task_nets(device), (values.to(device) for values in BATCH)
    parameters, buffers = torch.func.stack_module_state(nets)
    skeleton = copy.deepcopy(nets[0]).to("meta")

    def one_after_the_other() -> None:
        for number, net in enumerate(nets):
            net.zero_grad(set_to_none=True)
            loss = functional.binary_cross_entropy_with_logits(net(images)[:, 0], labels[:, number])
            loss.backward()

    def forward(own: dict[str, Tensor], state: dict[str, Tensor], seen: Tensor) -> Tensor:
        outputs: Tensor = torch.func.functional_call(skeleton, (own, state), (seen,))
        return outputs

    def stacked_into_one() -> None:
        for parameter in parameters.values():
            parameter.grad = None
        outputs = torch.vmap(forward, in_dims=(0, 0, None))(parameters, buffers, images)
        losses = functional.binary_cross_entropy_with_logits(outputs[..., 0], labels.T, reduction="none")
        losses.mean(1).sum().backward()

    side_by_side(
        "8 single-task networks stacked into one (not used), beside one after another",
        plain=one_after_the_other,
        ours=stacked_into_one,
    )
