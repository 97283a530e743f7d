"""Defenses that train, or learn from the released images, against closed forms and what they promise."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.api import Task
from bench.backbones.dense import DenseSmall
from bench.backbones.small import Small
from bench.catalog.build import build_part
from bench.defenses.d_vae import DisentanglingVAE, joint_labels, reconstruction_loss
from bench.defenses.orthogonal_projection import mean_image, project
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.labels import one_hot
from bench.tasks.segmentation import Segmentation
from bench.training.loop import task_losses
from bench.training.net import MultiTaskNet
from bench.values import MISSING, Batch, Split

CPU = torch.device("cpu")
TWO = Classification("two", ("a", "b"))
TASKS = (TWO, Classification("three", ("a", "b", "c")))
LEARNERS = ("orthogonal-projection", "d-vae(width=2, latent=2, epochs=2)")


def draw_batch(count: int = 12, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 12, 12, generator=generator)
    targets = {t.name: torch.randint(0, t.classes, (count,), generator=generator) for t in TASKS}
    return Batch(images, targets, torch.arange(count))


def new_net(tasks: Sequence[Task] = TASKS) -> MultiTaskNet:
    torch.manual_seed(0)
    return MultiTaskNet(Small(width=2), tasks, (3, 12, 12)).train()


# Adversarial training


class Linear(nn.Module):
    """A linear network of one binary task, whose worst images are known: corners of the ball."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(1)))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [(images * self.weight).sum((1, 2, 3))[:, None]]


def worst(images: Tensor, labels: Tensor, net: Linear, radius: float) -> Tensor:
    """The corner that is farthest to the wrong side, within the image's range."""
    away = (1 - 2 * labels).view(-1, 1, 1, 1) * net.weight.detach().sign()
    return (images + radius / 255 * away).clamp(0, 1)


@pytest.mark.parametrize("radius", [1.0, 8.0, 40.0])
def test_the_worst_image_of_a_linear_network_is_found_in_two_steps(radius: float) -> None:
    batch, net = draw_batch(), Linear()
    defense = build_part("defense", f"adversarial(radius={radius}, steps=2, step_size={radius})")
    seen = defense.augment(batch, net, (TWO,)).images
    assert torch.allclose(seen, worst(batch.images, batch.targets["two"], net, radius), atol=1e-6)


def test_of_mixed_images_both_labels_count() -> None:
    batch, net = draw_batch(), Linear()
    other = 1 - batch.targets["two"]
    defense = build_part("defense", "adversarial(steps=2, step_size=8)")
    for share, labels in ((1.0, batch.targets["two"]), (0.0, other)):
        seen = defense.augment(replace(batch, mixed={"two": other}, share=share), net, (TWO,))
        assert torch.allclose(seen.images, worst(batch.images, labels, net, 8), atol=1e-6)
        assert (seen.mixed, seen.share) == ({"two": other}, share)


def test_an_image_without_a_label_only_gets_the_start() -> None:
    batch, net = draw_batch(), Linear()
    labels = batch.targets["two"].clone()
    labels[3] = MISSING
    defense = build_part("defense", "adversarial(steps=2, step_size=8)")
    seen = defense.augment(replace(batch, targets={"two": labels}), net, (TWO,)).images
    wanted = worst(batch.images, labels.clamp(min=0), net, 8)
    rest = torch.arange(len(labels)) != 3
    assert torch.allclose(seen[rest], wanted[rest], atol=1e-6)
    moved = (seen[3] - batch.images[3]).abs() * 255
    assert moved.max() <= 8.001
    assert 2 < moved.mean() < 5  # 4 of a uniform start, less at the ends of the range


@pytest.mark.parametrize("radius", [2.0, 8.0])
def test_adversarial_images_are_in_the_ball_and_worse_than_noise(radius: float) -> None:
    batch, net = draw_batch(), new_net()
    defense = build_part("defense", f"adversarial(radius={radius}, step_size={radius / 4})")
    seen = defense.augment(batch, net, TASKS).images
    assert (seen - batch.images).abs().max() <= radius / 255 + 1e-6
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert not seen.requires_grad

    net.eval()
    with torch.no_grad():
        corners = [torch.randint_like(seen, 2).mul_(2).sub_(1) for _ in range(20)]
        noisy = [(batch.images + radius / 255 * corner).clamp(0, 1) for corner in corners]
        losses = [float(task_losses(net, TASKS, images, batch.targets).mean()) for images in (seen, *noisy)]
    assert losses[0] > max(losses[1:])


def test_more_steps_find_worse_images() -> None:
    batch, net = draw_batch(), new_net()
    losses = []
    for steps in (1, 3, 10):
        torch.manual_seed(0)
        seen = build_part("defense", f"adversarial(steps={steps})").augment(batch, net, TASKS).images
        with torch.no_grad():
            losses.append(float(task_losses(net.eval(), TASKS, seen, batch.targets).mean()))
        net.train()
    assert losses == sorted(losses)


def test_an_attack_on_the_images_leaves_no_trace_in_the_network() -> None:
    batch, net = draw_batch(), new_net()
    task_losses(net, TASKS, batch.images, batch.targets).sum().backward()
    net.encoder.eval()  # as it is where it is frozen
    images = batch.images.clone()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    modes = [module.training for module in net.modules()]
    build_part("defense", "adversarial").augment(batch, net, TASKS)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    left = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(left, gradients, strict=True))
    assert [module.training for module in net.modules()] == modes
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(batch.images, images)


def test_adversarial_images_are_found_above_frozen_parameters_and_drawn_with_the_seed() -> None:
    batch, net = draw_batch(), new_net()
    net.encoder.requires_grad_(False)
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append(build_part("defense", "adversarial(steps=1)").augment(batch, net, TASKS).images)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_adversarial_images_of_dense_tasks_are_worse_than_noise() -> None:
    tasks = (Segmentation("parts", ("a", "b", "c")), Depth("depth", 1.0, 9.0))
    torch.manual_seed(0)
    net = MultiTaskNet(DenseSmall(width=2), tasks, (3, 16, 16)).train()
    targets = {"parts": torch.randint(0, 3, (4, 16, 16)), "depth": 1 + 8 * torch.rand(4, 1, 16, 16)}
    batch = Batch(torch.rand(4, 3, 16, 16), targets, torch.arange(4))
    seen = build_part("defense", "adversarial").augment(batch, net, tasks).images
    noisy = (batch.images + 8 / 255 * torch.randint_like(seen, 2).mul_(2).sub_(1)).clamp(0, 1)
    net.eval()
    with torch.no_grad():
        worse, noise = (float(task_losses(net, tasks, images, targets).mean()) for images in (seen, noisy))
    assert worse > noise


# Orthogonal projection


def draw_poisoned(count: int = 900, side: int = 12, epsilon: float = 8.0) -> tuple[Split, Split]:
    """Grainy images that say nothing of the labels, clean and with one pattern per class of every task."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    smooth = functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
    grain = 12 * torch.randn(smooth.shape, generator=generator)
    clean = (48 + 159 * smooth + grain).round().clamp(8, 247).to(torch.uint8)
    targets = {t.name: torch.randint(0, t.classes, (count,), generator=generator) for t in TASKS}
    noise = torch.zeros(count, 3, side, side)
    for task in TASKS:
        patterns = torch.randint(0, 2, (task.classes, 3, side, side), generator=generator) * 2.0 - 1
        noise += epsilon / len(TASKS) * patterns[targets[task.name]]
    return Split(clean, targets), Split((clean + noise).round().to(torch.uint8), targets)


def read(split: Split, task: Classification) -> float:
    """How much better than guessing a ridge regression on the pixels is on the half it was not fitted to."""
    pixels = split.images.double().flatten(1) / 255
    pixels = pixels - pixels.mean(0)
    labels, half = split.targets[task.name], len(split) // 2
    aims = one_hot(labels[:half], task.classes).double() - 1 / task.classes
    square = pixels[:half].T @ pixels[:half] + 0.01 * torch.eye(pixels.shape[1], dtype=torch.double)
    answers = pixels[half:] @ torch.linalg.solve(square, pixels[:half].T @ aims)
    right = float((answers.argmax(1) == labels[half:]).double().mean())
    return (right - 1 / task.classes) / (1 - 1 / task.classes)


def test_projected_images_have_nothing_of_the_learned_rows() -> None:
    _, released = draw_poisoned(200)
    defense = build_part("defense", "orthogonal-projection(batch=50, epochs=4)")
    torch.manual_seed(3)
    rows = defense.learn(released, TASKS, CPU)
    assert rows.shape == (1 + 3, 3 * 12 * 12)
    mean = released.images.double().flatten(1).mean(0) / 255
    assert torch.allclose(mean_image(released.images, CPU).double(), mean, atol=1e-6)
    centered = (released.images.double().flatten(1) / 255 - mean).float()
    projected = project(centered, torch.linalg.qr(rows.T).Q)
    assert (centered @ rows.T).abs().max() > 0.1
    assert (projected @ rows.T).abs().max() < 1e-4
    # Nothing else is taken away: what was removed is a combination of the rows.
    combined = torch.linalg.lstsq(rows.T, (centered - projected).T).solution
    assert torch.allclose(rows.T @ combined, (centered - projected).T, atol=1e-4)

    torch.manual_seed(3)
    purified = defense.purify(released, TASKS, CPU)
    wanted = (255 * (projected + mean)).round().clamp(0, 255)
    assert (purified.flatten(1).float() - wanted).abs().max() <= 1
    assert (purified.flatten(1).float() == wanted).float().mean() > 0.999


def test_a_step_of_the_linear_models_is_gradient_descent_on_each_tasks_own_loss() -> None:
    _, released = draw_poisoned(64)
    missing = released.targets["two"].clone()
    missing[:10] = MISSING
    released = Split(released.images, {**released.targets, "two": missing})
    defense = build_part("defense", "orthogonal-projection(epochs=1, learning_rate=0.3)")
    torch.manual_seed(4)
    rows = defense.learn(released, TASKS, CPU)
    torch.manual_seed(4)
    start = nn.Linear(432, 4, bias=False).weight.detach()
    pixels = released.images.flatten(1) / 255
    pixels = pixels - pixels.mean(0)
    known = missing != MISSING
    chance = (pixels @ start[0]).sigmoid()
    first = ((chance - missing)[known, None] * pixels[known]).mean(0)
    chances = (pixels @ start[1:].T).softmax(1)
    others = (chances - one_hot(released.targets["three"], 3)).T @ pixels / len(pixels)
    assert torch.allclose(rows, start - 0.3 * torch.cat([first[None], others]), atol=1e-5)


def test_class_wise_noise_cannot_be_read_any_more_and_images_stay_images() -> None:
    clean, released = draw_poisoned()
    torch.manual_seed(0)
    purified = build_part("defense", "orthogonal-projection(batch=30)").purify(released, TASKS, CPU)
    for task in TASKS:
        assert abs(read(clean, task)) < 0.15
        assert read(released, task) > 0.9
        assert abs(read(Split(purified, released.targets), task)) < 0.3
    change = (purified.float() - clean.images.float()).square().mean().sqrt()
    assert change < 0.15 * clean.images.float().std()


def test_a_common_class_costs_no_brightness() -> None:
    clean, _ = draw_poisoned()
    labels = (torch.arange(len(clean)) % 50 == 0).long()
    torch.manual_seed(0)
    defense = build_part("defense", "orthogonal-projection(batch=30)")
    purified = defense.purify(Split(clean.images, {"two": labels}), (TWO,), CPU)
    assert abs(float(purified.float().mean() - clean.images.float().mean())) < 1
    assert (purified.float() - clean.images.float()).abs().mean() < 10


# D-VAE


def draw_simple(count: int = 48, side: int = 8, epsilon: int = 16) -> tuple[Split, Split]:
    """Images of a slope in a random direction, clean and with one pattern per class."""
    generator = torch.Generator().manual_seed(0)
    across = torch.linspace(-1, 1, side)
    slopes = torch.rand(count, 2, 1, 1, generator=generator) * 2 - 1
    plane = slopes[:, :1] * across + slopes[:, 1:] * across[:, None]
    clean = (127 + 50 * plane).expand(-1, 3, -1, -1).round().to(torch.uint8)
    labels = torch.randint(0, 2, (count,), generator=generator)
    patterns = epsilon * (2 * torch.randint(0, 2, (2, 3, side, side), generator=generator) - 1)
    targets = {"two": labels}
    return Split(clean, targets), Split((clean.int() + patterns[labels]).to(torch.uint8), targets)


def test_d_vae_drops_class_wise_noise_and_keeps_what_images_show() -> None:
    clean, released = draw_simple()
    torch.manual_seed(0)
    purified = build_part("defense", "d-vae(width=8, latent=8, epochs=25, batch=16)").purify(
        released, (TWO,), CPU
    )
    second = released.targets["two"].bool()

    def error(images: Tensor) -> Tensor:
        return images.float() - clean.images.float()

    def between_classes(images: Tensor) -> float:
        return float((error(images)[second].mean(0) - error(images)[~second].mean(0)).square().mean())

    assert between_classes(purified) < 0.1 * between_classes(released.images)
    assert error(purified).square().mean() < 0.8 * error(released.images).square().mean()
    shown = torch.stack([purified.flatten(), clean.images.flatten()]).float()
    assert torch.corrcoef(shown)[0, 1] > 0.8


def test_the_rate_is_the_divergence_from_a_standard_normal_per_position() -> None:
    torch.manual_seed(0)
    model = DisentanglingVAE((3, 9, 7), classes=4, width=2, latent=3)
    made = model(torch.rand(5, 3, 9, 7), torch.randint(0, 5, (5, 2)))
    assert made.images.shape == made.noise.shape == (5, 3, 9, 7)
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    mean, log_variance = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.0, -2.0, 0.7])
    for layer, bias in ((model.mean, mean), (model.log_variance, log_variance)):
        nn.init.zeros_(layer.weight)
        layer.bias.data = bias
    codes = torch.distributions.Normal(mean, (log_variance / 2).exp())
    wanted = torch.distributions.kl_divergence(codes, torch.distributions.Normal(0, 1)).sum()
    rate = model(torch.rand(5, 3, 9, 7), torch.zeros(5, 2).long()).rate
    assert rate.item() == pytest.approx(wanted.item())


def test_labels_of_all_tasks_are_numbered_and_missing_ones_are_0() -> None:
    targets = {"two": torch.tensor([0, 1, MISSING]), "three": torch.tensor([MISSING, 2, 0])}
    batch = Batch(torch.rand(3, 3, 4, 4), targets, torch.arange(3))
    assert joint_labels(batch, TASKS).tolist() == [[1, 0], [2, 5], [0, 3]]


def test_the_noise_depends_on_the_mean_embedding_of_the_labels_there_are() -> None:
    torch.manual_seed(0)
    model = DisentanglingVAE((3, 8, 8), classes=5, width=2, latent=3).eval()
    images = torch.rand(1, 3, 8, 8)

    def noise(*labels: int) -> Tensor:
        torch.manual_seed(1)
        made = model(images, torch.tensor([labels]))
        torch.manual_seed(1)
        assert torch.equal(made.images, model(images, torch.tensor([[0, 0]])).images)
        return made.noise.detach()

    assert not torch.allclose(noise(1, 3), noise(1, 0), atol=1e-4)
    alone = noise(1, 0)
    model.labels.weight.data[3] = model.labels.weight.data[1]
    assert torch.allclose(noise(1, 3), alone, atol=1e-6)
    assert not torch.allclose(noise(0, 0), alone, atol=1e-4)


def test_the_loss_is_that_of_the_reconstruction_with_and_without_the_noise() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    made = DisentanglingVAE((3, 8, 8), classes=2, width=2, latent=3)(images, torch.tensor([[1], [2]]))
    with_noise = (made.images + made.noise).clamp(0, 1)
    wanted = ((made.images - images) ** 2).mean() + ((with_noise - images) ** 2).mean()
    assert torch.allclose(reconstruction_loss(made, images), wanted)


def test_a_d_vae_that_diverges_says_so() -> None:
    _, released = draw_simple(8)
    with pytest.raises(BenchError, match=r"'d-vae' diverged .* lower its learning_rate"):
        build_part("defense", "d-vae(width=2, latent=2, epochs=3, learning_rate=1e30)").purify(
            released, (TWO,), CPU
        )


# What learns from the released images


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("shape", [(9, 1, 7, 5), (9, 3, 8, 8), (2, 3, 6, 6)])
def test_what_is_learned_is_the_same_under_the_same_seed(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    targets = {t.name: torch.arange(len(images)) % t.classes for t in TASKS}
    before = images.clone()
    cleaned = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        cleaned.append(build_part("defense", name).purify(Split(images, targets), TASKS, CPU))
    assert (cleaned[0].shape, cleaned[0].dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert torch.equal(cleaned[0], cleaned[1])
    assert not torch.equal(cleaned[0], cleaned[2])


@pytest.mark.parametrize("name", LEARNERS)
def test_what_learns_from_labels_tells_of_its_progress_and_refuses_dense_tasks(name: str) -> None:
    _, released = draw_poisoned(20)
    told: list[tuple[str, int, int]] = []
    defense = build_part("defense", name)
    defense.purify(released, TASKS, CPU, lambda *step: told.append(step))
    for what in {what for what, _, _ in told}:
        steps = [(done, total) for about, done, total in told if about == what]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]
    assert not defense.dense
    with pytest.raises(
        BenchError, match=r"defense '.*' works on classification tasks only, and 'parts' is not one"
    ):
        defense.purify(released, (Segmentation("parts", ("a", "b")),), CPU)
