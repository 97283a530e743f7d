"""Attacks on dense tasks: what a map of labels, of distances or of directions does to δ."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines.crafting.lift import pattern_per_pixel
from baselines.crafting.loop import add_delta
from baselines.crafting.objectives import FixedSurrogate
from bench.api import CraftContext
from bench.catalog.build import build_part
from bench.tasks.classification import Classification
from bench.tasks.depth import Depth
from bench.tasks.normals import Normals
from bench.tasks.segmentation import Segmentation
from bench.training.loaders import make_batch
from bench.training.loop import task_losses, train_epochs
from bench.training.net import MultiTaskNet
from bench.values import MISSING, Augmentation, Batch, Recipe, Split
from mtlue.attack import GeneratedNoise
from mtlue.generator import ClassEmbeddings, Generator, MapEmbedding, Reduction

CPU = torch.device("cpu")
EPSILON = 8 / 255
SIDE = 16
WHAT, FAR, TURNED = Segmentation("what", ("a", "b", "c")), Depth("far", 0.0, 4.0), Normals("turned")
KIND = Classification("kind", ("x", "y"))
TASKS = (WHAT, FAR, TURNED, KIND)
DRAWN = (
    "em(rounds=3, steps=4, step_size=2, surrogate_steps=8, batch=32)",
    "tap(steps=12, step_size=1.0, restarts=1)",
    "mtl-ue-tap(rounds=12, batch=32, width=4, embedding_channels=4, learning_rate=0.005)",
)


def easy_split(count: int, seed: int = 0) -> Split:
    """Images whose brightness in each quarter says everything there is to know of its pixels."""
    draw = torch.Generator().manual_seed(seed)
    quarters = torch.randint(0, 3, (count, 2, 2), generator=draw)
    labels = quarters.repeat_interleave(SIDE // 2, 1).repeat_interleave(SIDE // 2, 2)
    noise = torch.randint(-3, 4, (count, 3, SIDE, SIDE), generator=draw)
    images = (100 + 12 * labels[:, None] + noise).clamp(0, 255).to(torch.uint8)
    far = 0.5 + labels[:, None].float()
    x = 0.6 * (labels.float() - 1)
    normals = torch.stack([x, torch.zeros_like(x), -(1 - x * x).sqrt()], dim=1)
    targets = {
        "what": labels.to(torch.int8),
        "far": far,
        "turned": normals,
        "kind": (quarters[:, 0, 0] > 0).long(),
    }
    return Split(images, targets)


SPLIT = easy_split(96)


def new_net() -> MultiTaskNet:
    return MultiTaskNet(build_part("backbone", "dense-small(width=8)"), TASKS, (3, SIDE, SIDE))


def context(snapshots: list[MultiTaskNet]) -> CraftContext:
    return CraftContext(
        tasks=TASKS,
        augmentation=Augmentation(flip=True),
        epsilon=EPSILON,
        new_surrogate=new_net,
        surrogate_snapshots=lambda count: snapshots[-count:],
        device=CPU,
        progress=lambda what, done, total: None,
    )


@pytest.fixture(scope="module")
def surrogate() -> MultiTaskNet:
    """A network that has learned the tasks."""
    torch.manual_seed(0)
    net, recipe = new_net(), Recipe(epochs=12, batch=16, learning_rate=3e-3)
    weighting, no_defense = build_part("weighting", "ew").start(TASKS, CPU), build_part("defense", "none")
    epochs = list(
        train_epochs(net, SPLIT, TASKS, recipe, Augmentation(flip=True), weighting, no_defense, CPU)
    )
    assert epochs[-1].train_loss < 0.6 * epochs[0].train_loss
    return net


def whole(split: Split) -> Batch:
    return make_batch(split, torch.arange(len(split)), CPU)


def test_a_pixel_takes_what_the_pattern_of_its_own_class_has_there() -> None:
    pattern, labels = torch.rand(4, 3, 5, 6), torch.randint(-1, 3, (7, 5, 6))
    out = pattern_per_pixel(pattern, labels)
    for image, row, column in [(0, 0, 0), (3, 4, 5), (6, 2, 3)]:
        chosen = pattern[labels[image, row, column], :, row, column]
        assert torch.equal(out[image, :, row, column], chosen)


@pytest.mark.parametrize("mode", ["average", "patch"])
def test_random_noise_on_maps_is_one_value_per_class_and_place(mode: str) -> None:
    torch.manual_seed(0)
    noise = build_part("attack", f"random(lift={mode})").craft(SPLIT, context([]))
    batch = whole(SPLIT)
    delta = noise.delta(batch)
    same = {name: target[:1].expand_as(target) for name, target in batch.targets.items()}
    assert noise.delta(replace(batch, targets=same)).unique(dim=0).shape[0] == 1
    for task in TASKS:
        hidden = {**batch.targets, task.name: task.without_labels(batch.targets[task.name])}
        assert not torch.equal(noise.delta(replace(batch, targets=hidden)), delta), task.name
    nothing = {task.name: task.without_labels(batch.targets[task.name]) for task in TASKS}
    assert not noise.delta(replace(batch, targets=nothing)).any()


@pytest.mark.parametrize("attack", DRAWN)
def test_noise_brings_a_surrogate_where_the_attacker_wants_it(attack: str, surrogate: MultiTaskNet) -> None:
    """EM makes the true labels easy for the network it trains; TAP makes a trained one see others."""
    torch.manual_seed(0)
    made: list[MultiTaskNet] = []

    def kept() -> MultiTaskNet:
        made.append(new_net())
        return made[-1]

    noise = build_part("attack", attack).craft(SPLIT, replace(context([surrogate]), new_surrogate=kept))
    batch = whole(SPLIT)
    net = made[0] if attack.startswith("em") else surrogate
    targets = {
        t.name: batch.targets[t.name] if attack.startswith("em") else t.shifted(batch.targets[t.name])
        for t in TASKS
    }
    with torch.no_grad():
        before = task_losses(net.eval(), TASKS, batch.images, targets)
        after = task_losses(net, TASKS, add_delta(batch.images, noise.delta(batch)), targets)
    assert float(after.mean()) < 0.95 * float(before.mean())


def test_what_a_surrogate_shall_see_is_another_label_at_every_pixel(surrogate: MultiTaskNet) -> None:
    batch = whole(SPLIT)
    objective = FixedSurrogate(SPLIT, context([surrogate]), [surrogate], view="image")
    with torch.no_grad():
        loss = float(objective.losses(batch)[0](torch.zeros_like(batch.images)))
        outputs = surrogate(batch.images)
    labels = batch.targets["what"]
    by_hand = [
        functional.cross_entropy(outputs[0], (labels + 1) % 3),
        (outputs[1] - (batch.targets["far"] + 2) % 4).abs().mean(),
        1 + functional.cosine_similarity(outputs[2], batch.targets["turned"], dim=1).mean(),
        functional.binary_cross_entropy_with_logits(outputs[3][:, 0], 1 - batch.targets["kind"].float()),
    ]
    assert loss == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-5)
    error = objective.error(batch, torch.zeros_like(batch.images))
    assert error.shape == (len(SPLIT),)
    assert float(error.mean()) > 0.7  # a trained network sees the true labels, hardly any of the others


# The generator


def nearest(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Every second pixel's neighborhood of a map [b h w], by hand."""
    height, width = maps.shape[1:]
    where_rows = ((torch.arange(rows) + 0.5) * height / rows).long()
    where_columns = ((torch.arange(columns) + 0.5) * width / columns).long()
    return maps[:, where_rows][:, :, where_columns]


def test_a_label_map_looks_its_class_embedding_up_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    embed = ClassEmbeddings(3, 2, 4, 5)
    maps = torch.randint(-1, 3, (6, 8, 10))
    out = embed(maps)
    weight = embed.weight.view(3, 2, 4, 5)
    small = nearest(maps, 4, 5)
    for image in range(6):
        for row in range(4):
            for column in range(5):
                label = int(small[image, row, column])
                there = weight[:, :, row, column]
                wanted = there.mean(0) if label == MISSING else there[label]
                assert torch.allclose(out[image, :, row, column], wanted)


def test_a_map_of_one_label_is_embedded_as_that_label_is() -> None:
    embed = ClassEmbeddings(3, 2, 4, 5)
    labels = torch.tensor([2, 0, MISSING])
    assert torch.allclose(embed(labels), embed(labels.view(-1, 1, 1).expand(-1, 8, 10)))


def test_missing_pixels_of_a_map_change_nothing_but_their_surroundings() -> None:
    torch.manual_seed(0)
    embed = MapEmbedding(1, 3, 8, 8).eval()
    maps = torch.rand(2, 1, 16, 16)
    holed = maps.clone()
    holed[:, :, :4, :4] = float("nan")
    full, with_hole = embed(maps), embed(holed)
    assert with_hole.isfinite().all()
    assert not torch.allclose(full[:, :, :2, :2], with_hole[:, :, :2, :2])
    assert torch.equal(full[:, :, 4:, 4:], with_hole[:, :, 4:, 4:])


def test_the_mean_of_a_map_embedding_is_regularised_beside_the_class_embeddings() -> None:
    torch.manual_seed(0)
    generator = Generator(TASKS, 3, SIDE, SIDE, epsilon=EPSILON, base_width=4, embedding_channels=2)
    with pytest.raises(RuntimeError, match="training mode"):
        generator.class_embeddings()
    batch = make_batch(SPLIT, torch.arange(8), CPU)
    generator.train()(batch.images, batch.targets)
    rows = generator.class_embeddings()
    assert [len(matrix) for matrix in rows] == [3, 1, 1, 2]
    assert {matrix.shape[1] for matrix in rows} == {2 * 8 * 8}
    assert all(matrix.requires_grad for matrix in rows)
    noise = GeneratedNoise(generator, intra=0.0, inter=100.0, learning_rate=1e-2, rounds=9)

    def overlap() -> float:
        with torch.no_grad():
            generator.train()(batch.images, batch.targets)
        far, turned = (functional.normalize(generator.class_embeddings()[i].detach(), dim=1) for i in (1, 2))
        return float((far @ turned.T).abs().sum())

    before = overlap()
    for _ in range(30):
        noise.update(batch, [lambda delta: delta.square().mean()])
    assert overlap() < 0.5 * before


@pytest.mark.parametrize("reduction", [2, 8])
def test_delta_depends_on_every_map(reduction: Reduction) -> None:
    torch.manual_seed(0)
    generator = Generator(
        TASKS, 3, SIDE, SIDE, epsilon=1.0, base_width=4, embedding_channels=2, reduction=reduction
    ).eval()
    batch = make_batch(SPLIT, torch.arange(8), CPU)
    delta = generator(batch.images, batch.targets)
    for task in TASKS:
        other = {**batch.targets, task.name: task.shifted(batch.targets[task.name])}
        assert not torch.allclose(generator(batch.images, other), delta), task.name


@pytest.mark.parametrize("sides", [(16, 24), (17, 23), (33, 9)])
@pytest.mark.parametrize("reduction", [2, 8])
def test_the_generator_serves_sides_of_any_length(sides: tuple[int, int], reduction: Reduction) -> None:
    height, width = sides
    generator = Generator(
        [KIND, FAR],
        1,
        height,
        width,
        epsilon=EPSILON,
        base_width=4,
        embedding_channels=2,
        reduction=reduction,
    )
    targets = {"kind": torch.tensor([0, 1]), "far": torch.rand(2, 1, height, width)}
    assert generator(torch.rand(2, 1, height, width), targets).shape == (2, 1, height, width)
    assert {rows.shape[1] for rows in generator.class_embeddings()} == {
        2 * -(-height // reduction) * -(-width // reduction)
    }


def test_large_images_have_the_public_codes_large_generator() -> None:
    attack = build_part("attack", "mtl-ue-tap(width=4, embedding_channels=1)")
    few = replace(context([]), tasks=(KIND,))
    sizes = {
        side: attack._generator(few, 3, side, side).class_embeddings()[0].shape[1] for side in (140, 256)
    }
    assert sizes == {140: 70 * 70, 256: 32 * 32}
