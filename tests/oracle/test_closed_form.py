"""The attacks that need no network, against hand-worked cases and slow independent computations."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.linear_model import RidgeClassifier
from torch import Tensor
from torch.nn import functional

from baselines import ar
from baselines.ar import (
    draw_signals,
    draw_stable_processes,
    filter_responses,
    find_processes,
    signal_norms,
    stays_bounded,
)
from baselines.crafting.lift import equal_cells
from baselines.cuda import ClassFilters
from baselines.lsp import draw_clusters, patch_size
from baselines.ops import LEAST_SPREAD, PixelShortcuts
from bench.api import CraftContext, Noise
from bench.catalog.build import build_part
from bench.engine.stages.context import seeded
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.values import MISSING, Augmentation, Batch, Split

EPSILON = 8 / 255
CPU = torch.device("cpu")
ATTACKS = ("random-samplewise", "lsp", "ar", "ops", "cuda")
LIFTS = ("patch", "average", "patch-official")


def training_set(
    count: int,
    classes: Sequence[int],
    height: int = 32,
    width: int = 32,
    channels: int = 3,
    missing: float = 0.0,
) -> Split:
    """Random images with random labels of the tasks "0", "1", ..."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    targets = {}
    for i, k in enumerate(classes):
        labels = torch.randint(0, k, (count,), generator=generator)
        targets[str(i)] = labels.masked_fill(torch.rand(count, generator=generator) < missing, MISSING)
    return Split(images, targets)


def tasks_of(classes: Sequence[int]) -> tuple[Classification, ...]:
    return tuple(Classification(str(i), tuple(map(str, range(k)))) for i, k in enumerate(classes))


def craft(attack: str, train: Split, classes: Sequence[int], seed: int = 0) -> Noise:
    context = CraftContext(
        tasks_of(classes), Augmentation(), EPSILON, lambda: None, lambda n: [], CPU, lambda *step: None
    )
    with seeded("craft", seed):
        return build_part("attack", attack).craft(train, context)


def whole(train: Split) -> Batch:
    return Batch(train.images.float() / 255, train.targets, torch.arange(len(train)))


def released(noise: Noise, train: Split) -> Tensor:
    """The images, rounded, without a budget."""
    batch = whole(train)
    return ((batch.images + noise.delta(batch)) * 255).round().clamp(0, 255).int()


# All of them


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    ("classes", "height", "width", "channels"),
    [((2,) * 40, 24, 20, 3), ((2, 7), 9, 8, 1), ((3,), 4, 4, 1)],
    ids=["40 tasks", "gray", "4 px"],
)
def test_noise_of_any_training_set_is_finite_and_the_same_again(
    attack: str, classes: tuple[int, ...], height: int, width: int, channels: int
) -> None:
    train = training_set(30, classes, height, width, channels, missing=0.3)
    first, again, other = (craft(attack, train, classes, seed).delta(whole(train)) for seed in (0, 0, 1))
    assert first.shape == train.images.shape
    assert first.isfinite().all()
    assert first.any()
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (attack == "ops")


@pytest.mark.parametrize("attack", ATTACKS[1:])
def test_an_image_without_labels_is_left_alone(attack: str) -> None:
    train = training_set(12, (2, 3), 12, 12)
    for labels in train.targets.values():
        labels[5] = MISSING
    changed = craft(attack, train, (2, 3)).delta(whole(train)).flatten(1).any(1)
    assert changed.sum() == 11
    assert not changed[5]


# Random noise


def test_sample_wise_random_noise_is_uniform_and_drawn_for_every_image() -> None:
    train = training_set(600, (2,), 16, 16)
    delta = craft("random-samplewise", train, (2,)).delta(whole(train)) / EPSILON
    assert delta.abs().max() <= 1 + 1e-3
    shares = delta.flatten().histc(bins=10, min=-1.001, max=1.001) / delta.numel()
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.005)
    similarity = torch.corrcoef(delta.flatten(1)).fill_diagonal_(0)
    assert similarity.abs().max() < 0.25  # 7 standard deviations of independent rows


# LSP


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("classes", [(10, 2, 5), (4,) * 5], ids=["three tasks", "five tasks"])
def test_lsp_is_linearly_separable_for_every_task(lift: str, classes: tuple[int, ...]) -> None:
    train = training_set(1000, classes)
    delta = craft(f"lsp(lift={lift})", train, classes).delta(whole(train)).flatten(1).double()
    for labels in train.targets.values():
        fitted = RidgeClassifier(alpha=1e-6).fit(delta[:600], labels[:600])
        assert fitted.score(delta[:600], labels[:600]) > 0.99
        assert fitted.score(delta[600:], labels[600:]) > 0.98


def test_lsp_tells_40_binary_tasks_apart_in_cells_of_a_few_pixels() -> None:
    classes = (2,) * 40
    train = training_set(400, classes, 20, 20)
    delta = craft("lsp", train, classes).delta(whole(train))
    for name, cell in zip(train.targets, equal_cells(40, 20, 20), strict=True):
        features, labels = cell.crop(delta).flatten(1).double(), train.targets[name]
        fitted = RidgeClassifier().fit(features[:200], labels[:200])
        assert fitted.score(features[200:], labels[200:]) == 1


def test_lsp_has_the_papers_patches_and_norm() -> None:
    train = training_set(50, (10,))
    delta = craft("lsp", train, (10,)).delta(whole(train))
    assert delta.norm(p=2, dim=(1, 2, 3)).tolist() == pytest.approx([6 / 255 * 3072**0.5] * 50, rel=1e-3)
    patches = delta[:, :, ::8, ::8]
    assert torch.equal(functional.interpolate(patches, scale_factor=8), delta)
    assert patches.flatten(1).unique(dim=1).shape == (50, 48)


def test_lsp_scales_every_task_by_its_own_cell() -> None:
    classes = (2, 3, 4)
    train = training_set(50, classes, 21, 30)
    delta = craft("lsp", train, classes).delta(whole(train))
    for cell in equal_cells(3, 21, 30):
        rms = cell.crop(delta).square().mean((1, 2, 3)).sqrt()
        assert rms.tolist() == pytest.approx([6 / 255] * 50, rel=1e-3)


def test_every_image_gets_a_sample_of_its_own_of_its_class() -> None:
    counts = {0: 500, 1: 1, 3: 37, 4: 2, MISSING: 20}  # none of class 2
    labels = torch.cat([torch.full((n,), label) for label, n in counts.items()])
    torch.manual_seed(0)
    labels = labels[torch.randperm(len(labels))]
    samples = draw_clusters(labels, classes=5, features=12, separation=10.0)
    assert not samples[labels == MISSING].any()
    assert len(samples[labels != MISSING].unique(dim=0)) == 540
    # Clusters stand at corners of a hypercube: a class's mean shows which.
    means = {label: samples[labels == label].mean(0) for label in (0, 3)}
    for mean in means.values():
        assert mean.abs().tolist() == pytest.approx([10.0] * 12, abs=2)
    for label, own, far in ((0, means[0], means[3]), (3, means[3], means[0])):
        mine = samples[labels == label]
        assert ((mine - own).norm(dim=1) < (mine - far).norm(dim=1)).all()


@pytest.mark.parametrize("count", [49, 98, 103, 107])  # where count · (1 / count) is below 1
def test_the_only_image_of_a_class_is_not_lost_to_rounding(count: int) -> None:
    torch.manual_seed(0)
    samples = draw_clusters(torch.arange(count) // (count - 1), classes=2, features=8, separation=10.0)
    distances = (samples - samples[:-1].mean(0)).norm(dim=1)
    assert distances[-1] > 1.5 * distances[:-1].max()


def test_patches_get_smaller_until_they_can_hold_the_classes() -> None:
    many = Classification("many", tuple(map(str, range(10))))
    assert patch_size(many, 3, 32, 32, 4) == (8, 8)
    assert patch_size(many, 3, 9, 30, 4) == (3, 8)  # three rows of patches show, not four
    assert patch_size(many, 3, 32, 32, 1) == (16, 16)  # one patch has 3 features, and 2³ < 10
    assert patch_size(many, 1, 3, 2, 1) == (2, 1)
    more = Classification("more", tuple(map(str, range(20))))
    assert patch_size(more, 1, 3, 2, 1) == (1, 1)
    with pytest.raises(BenchError, match=r"'many', 1×3 pixels of 1 channel\(s\).* 10 classes"):
        patch_size(many, 1, 1, 3, 4)


# AR


@pytest.fixture(scope="module")
def processes() -> Tensor:
    """Twelve processes."""
    torch.manual_seed(0)
    return find_processes(12, shape=(3, 32, 32), crop=4, draws=10_000)


def slow_response(signal: Tensor, process: Tensor) -> float:
    """The sum of what is positive of the values' deviations from the process's mix, channels added up."""
    total = 0.0
    for i, j in product(range(2, signal.shape[1]), range(2, signal.shape[2])):
        window = signal[:, i - 2 : i + 1, j - 2 : j + 1]
        total += max(0.0, float((process * window).sum() - signal[:, i, j].sum()))
    return total


def test_a_process_mixes_eight_neighbors_with_weights_of_sum_one(processes: Tensor) -> None:
    assert not processes[:, :, 2, 2].any()
    assert torch.allclose(processes.sum((2, 3)), torch.ones(12, 3), atol=1e-5)


def test_a_signal_obeys_its_process_and_no_other(processes: Tensor) -> None:
    torch.manual_seed(1)
    signals = draw_signals(processes, 1, 14, 18, 4)[:, 0]
    signals = signals / signal_norms(signals)
    assert signals.shape == (12, 3, 14, 18)
    for i, j in product(range(3), range(4)):
        slow = slow_response(signals[i], processes[j])
        assert float(filter_responses(signals, processes)[i, j]) == pytest.approx(slow, abs=1e-4)
        assert slow < 1e-4 if i == j else slow > 0.05


@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 3), (9, 12)])
def test_rows_by_matrix_products_are_those_of_a_raster_scan(
    processes: Tensor, height: int, width: int
) -> None:
    torch.manual_seed(2)
    signals = draw_signals(processes, 2, height, width, crop=0).double()
    scanned = signals.clone()
    scanned[..., 2:, 2:] = 0
    for i, j in product(range(2, height), range(2, width)):
        windows = scanned[..., i - 2 : i + 1, j - 2 : j + 1]
        scanned[..., i, j] = (windows * processes[:, None]).sum((-2, -1))
    assert torch.allclose(signals, scanned, atol=1e-4 * float(scanned.abs().max()))


@pytest.mark.parametrize("lift", LIFTS)
def test_noise_does_not_depend_on_the_images_that_are_drawn_together(
    lift: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = (3, 2, 5)
    train = training_set(11, classes, 20, 24, missing=0.2)
    together = craft(f"lsp(lift={lift})", train, classes).delta(whole(train))
    monkeypatch.setattr("bench.memory.MAX_IMAGES", 1)
    assert torch.equal(craft(f"lsp(lift={lift})", train, classes).delta(whole(train)), together)


def test_every_image_gets_a_signal_of_its_own_class() -> None:
    train = training_set(30, (3,))
    delta = craft("ar(lift=average)", train, (3,)).delta(whole(train))
    mixes = torch.stack(
        [
            class_mix(functional.unfold(delta[train.targets["0"] == k][:, [0]], 3).mT.flatten(0, 1).double())
            for k in range(3)
        ]
    )
    for image, label in zip(delta, train.targets["0"].tolist(), strict=True):
        windows = functional.unfold(image[None, [0]], 3)[0].double()
        errors = (mixes.flatten(1)[:, :8] @ windows[:8] - windows[8]).square().sum(1)
        assert int(errors.argmin()) == label
        assert errors.sort().values[1] > 4 * errors.min()


def test_signals_of_a_process_are_drawn_anew(processes: Tensor) -> None:
    torch.manual_seed(0)
    twice = draw_signals(processes[:1], 2, 8, 8, 4)[0]
    assert not torch.allclose(twice[0], twice[1], atol=1e-2)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 12, 16), (1, 12, 16)], ids=str)
@pytest.mark.parametrize(("count", "least"), [(5, 10.0), (20, 3.0)])
def test_the_processes_found_are_calm_and_far_from_each_other_at_the_size_of_their_cell(
    shape: tuple[int, int, int], count: int, least: float
) -> None:
    torch.manual_seed(0)
    found = find_processes(count, shape=shape, crop=4, draws=100_000)
    channels, height, width = shape
    norm = (channels * height * width / 3072) ** 0.5
    signals = draw_signals(found, 20, height, width, 4).transpose(0, 1)
    assert signals.square().sum((2, 3, 4)).sqrt().quantile(0.9) <= 50 * norm
    responses = torch.stack([filter_responses(one * norm / signal_norms(one), found) for one in signals])
    assert responses.diagonal(dim1=1, dim2=2).abs().max() < 0.05
    # The search asked this of one signal of each; in a small cell, others differ a little.
    earlier = responses.mean(0)[torch.ones(count, count).tril(-1).bool()]
    bar = least * channels / 3 * (height - 2) * (width - 2) / 900
    assert earlier.quantile(0.1) > 0.6 * bar
    assert earlier.median() > bar


def test_stable_processes_come_with_a_calm_signal_of_their_own() -> None:
    torch.manual_seed(0)
    drawn, signals = draw_stable_processes(100, (3, 32, 32), 4)
    assert 5 <= len(drawn) <= 50
    assert torch.allclose(signal_norms(signals), torch.ones(len(drawn), 1, 1, 1), atol=1e-5)
    own = filter_responses(signals, drawn)
    assert own.diagonal().max() < 1e-2
    assert own[~torch.eye(len(drawn), dtype=torch.bool)].median() > 1


def test_large_cells_ask_for_processes_that_do_not_blow_up_there() -> None:
    torch.manual_seed(0)
    small = find_processes(20, shape=(3, 32, 32), crop=4, draws=10_000)
    large = find_processes(20, shape=(3, 80, 80), crop=4, draws=10_000)
    assert stays_bounded(small, 32, 32, 4).float().mean() > 0.9
    assert stays_bounded(small, 80, 80, 4).float().mean() < stays_bounded(large, 80, 80, 4).float().mean()
    assert stays_bounded(large, 80, 80, 4).float().mean() > 0.9


def test_a_search_that_takes_too_long_is_given_up() -> None:
    torch.manual_seed(0)
    with pytest.raises(BenchError, match=r"of 1000 processes for a cell of 8×9 pixels in 300 draws.*'draws'"):
        find_processes(1000, shape=(3, 8, 9), crop=4, draws=300)
    with pytest.raises(BenchError, match=r"of 1000 processes .* in 1 draws"):
        find_processes(1000, shape=(3, 8, 9), crop=4, draws=1)


@pytest.mark.parametrize(
    ("lift", "searches"),
    [
        ("patch", [(2, (3, 10, 16)), (3, (3, 10, 16)), (2, (3, 10, 32))]),
        ("patch-official", [(2, (3, 20, 32)), (3, (3, 20, 32)), (2, (3, 20, 32))]),
        ("average", [(7, (3, 20, 32))]),
    ],
)
def test_processes_are_told_apart_from_those_of_their_own_cell(
    lift: str, searches: list[tuple[int, tuple[int, int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def recorded(count: int, *, shape: tuple[int, int, int], crop: int, draws: int) -> Tensor:
        asked.append((count, shape))
        return find_processes(count, shape=shape, crop=crop, draws=draws)

    monkeypatch.setattr(ar, "find_processes", recorded)
    classes = (2, 3, 2)
    train = training_set(4, classes, 20, 32)
    craft(f"ar(lift={lift})", train, classes)
    assert asked == searches


def class_mix(windows: Tensor) -> Tensor:
    """The mix of a class's process [3 3], by least squares over values in windows [m 9]."""
    mix = torch.zeros(9, dtype=torch.double)
    mix[:8] = torch.linalg.lstsq(windows[:, :8], windows[:, 8:]).solution[:, 0]
    return mix.view(3, 3)


def test_a_tasks_classes_differ_by_the_bar_of_ten_however_many_tasks_there_are() -> None:
    classes = (2,) * 6
    train = training_set(60, classes, 24, 36)
    delta = craft("ar", train, classes).delta(whole(train))
    for labels, cell in zip(train.targets.values(), equal_cells(6, 24, 36), strict=True):
        shown = cell.crop(delta)
        first, second = shown[labels == 0], shown[labels == 1]
        process = torch.stack(
            [class_mix(functional.unfold(first[:, [c]], 3).mT.flatten(0, 1).double()) for c in range(3)]
        )
        responses = filter_responses(second.double(), process[None])[:, 0]
        positions = (cell.height - 2) * (cell.width - 2)
        assert responses.mean() > 0.6 * 10 * positions / 900


def test_ar_gives_the_images_of_a_class_signals_of_one_process() -> None:
    classes = (2, 3)
    train = training_set(40, classes, 32, 24, missing=0.2)
    delta = craft("ar", train, classes).delta(whole(train))
    for labels, cell in zip(train.targets.values(), equal_cells(2, 32, 24), strict=True):
        shown = cell.crop(delta)
        assert not shown[labels == MISSING].any()
        labeled, of = shown[labels != MISSING], labels[labels != MISSING]
        norm = (labeled[0].numel() / 3072) ** 0.5
        assert signal_norms(labeled).flatten().tolist() == pytest.approx([norm] * len(of), rel=1e-2)
        # The mix of a class, from half of its images by least squares, predicts the other half's values.
        windows = functional.unfold(labeled[:, :1], 3).mT.double()
        for label in of.unique():
            mine = windows[of == label]
            train_half, other_half = mine[::2].flatten(0, 1), mine[1::2].flatten(0, 1)
            mix = class_mix(train_half).flatten()[:8, None]
            explained = (other_half[:, :8] @ mix - other_half[:, 8:]).square().sum()
            assert explained < 1e-3 * other_half[:, 8:].square().sum()
            others = windows[of != label].flatten(0, 1)
            assert (others[:, :8] @ mix - others[:, 8:]).square().sum() > 0.05 * others[:, 8:].square().sum()


# OPS


def brute_force(
    train: Split, classes: Sequence[int]
) -> dict[str, list[tuple[int, int, tuple[int, ...]] | None]]:
    """Per task and class the row, the column and the color, from all distances of all images."""
    images = train.images.double().numpy()
    _, channels, height, width = images.shape
    chosen: dict[str, list[tuple[int, int, tuple[int, ...]] | None]] = {}
    used_positions: set[tuple[int, int]] = set()
    for task, k in enumerate(classes):
        used: set[tuple[int, int, tuple[int, ...]]] = set()
        chosen[str(task)] = []
        for label in range(k):
            mine = images[train.targets[str(task)].numpy() == label]
            if not len(mine):
                chosen[str(task)].append(None)
                continue
            best, best_gain = None, -1.0
            for color in product((0, 1), repeat=channels):
                for i, j in product(range(height), range(width)):
                    if (i, j, color) in used or (i, j) in used_positions:
                        continue
                    distance = np.abs(255 * np.array(color) - mine[:, :, i, j])
                    gain = distance.mean() / max(LEAST_SPREAD, distance.std())
                    if gain > best_gain + 1e-9:
                        best, best_gain = (i, j, color), gain
            assert best is not None
            used.add(best)
            chosen[str(task)].append(best)
        used_positions |= {(i, j) for i, j, _ in used}
    return chosen


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flat", [False, True], ids=["any images", "a constant corner"])
def test_ops_chooses_what_brute_force_chooses(channels: int, flat: bool) -> None:
    classes = (4, 2, 3)
    train = training_set(30, classes, 4, 5, channels, missing=0.2)
    train.targets["2"][train.targets["2"] == 1] = 0  # a class without images
    if flat:
        train.images[:, :, :2, :2] = 0
        train.images[:, :, 0, 1] = 90
    noise = craft("ops", train, classes)
    assert isinstance(noise, PixelShortcuts)
    for name, chosen in brute_force(train, classes).items():
        pixels = noise.pixels[name]
        for label, expected in enumerate(chosen):
            if expected is not None:
                got = (
                    int(pixels.rows[label]),
                    int(pixels.columns[label]),
                    tuple(pixels.colors[label].int().tolist()),
                )
                assert got == expected


def test_ops_sets_exactly_the_chosen_pixels_to_exactly_the_chosen_values() -> None:
    classes = (3, 2, 2)
    train = training_set(25, classes, 6, 7, missing=0.3)
    noise = craft("ops", train, classes)
    assert isinstance(noise, PixelShortcuts)
    expected = train.images.int()
    for name, labels in train.targets.items():
        pixels = noise.pixels[name]
        for image, label in enumerate(labels.tolist()):
            if label != MISSING:
                expected[image, :, pixels.rows[label], pixels.columns[label]] = (
                    255 * pixels.colors[label].int()
                )
    assert torch.equal(released(noise, train), expected)


def test_ops_keeps_tasks_and_classes_apart() -> None:
    classes = (2,) * 40
    train = training_set(60, classes, 10, 10)
    noise = craft("ops", train, classes)
    assert isinstance(noise, PixelShortcuts)
    places = [set(zip(m.rows.tolist(), m.columns.tolist(), strict=True)) for m in noise.pixels.values()]
    assert len(set.union(*places)) == sum(map(len, places))
    for pixels in noise.pixels.values():
        assert (
            len(torch.cat([pixels.rows[:, None], pixels.columns[:, None], pixels.colors], 1).unique(dim=0))
            == 2
        )


def test_ops_of_identical_images_takes_the_farthest_value_not_a_nan() -> None:
    train = Split(torch.full((4, 1, 3, 3), 100, dtype=torch.uint8), {"0": torch.tensor([0, 0, 1, 1])})
    train.images[:, :, 1, 2] = 40
    noise = craft("ops", train, (2,))
    assert isinstance(noise, PixelShortcuts)
    pixels = noise.pixels["0"]
    assert (pixels.rows.tolist(), pixels.columns.tolist()) == ([1, 0], [2, 0])  # 215, then 155
    assert pixels.colors.tolist() == [[1.0], [1.0]]


def test_ops_says_when_there_are_too_few_pixels() -> None:
    classes = (2,) * 40
    with pytest.raises(BenchError, match="too small for so many tasks"):
        craft("ops", training_set(60, classes, 4, 4), classes)


# CUDA


@pytest.mark.parametrize("channels", [1, 3])
def test_cuda_filters_every_image_by_the_kernels_of_its_labels(channels: int) -> None:
    classes = (3, 2, 4)
    train = training_set(20, classes, 7, 9, channels, missing=0.3)
    noise = craft("cuda", train, classes)
    assert isinstance(noise, ClassFilters)
    delta, clean = noise.delta(whole(train)), train.images.double().numpy() / 255
    for i, image in enumerate(clean):
        filtered = image.copy()
        labels = {name: int(target[i]) for name, target in train.targets.items()}
        labeled = {name: label for name, label in labels.items() if label != MISSING}
        for name, label in labeled.items():
            kernel = noise.kernels[name][label].double().numpy()
            filtered = np.stack([ndimage.correlate(c, kernel, mode="constant") for c in filtered])
        expected = filtered / filtered.max() if labeled else image
        assert np.abs(image + delta[i].numpy() - expected).max() < 1e-5


def test_a_kernel_of_cuda_has_one_weight_of_one_among_small_ones() -> None:
    train = training_set(2, (300,), 6, 6)
    noise = craft("cuda(blur=0.2)", train, (300,))
    assert isinstance(noise, ClassFilters)
    weights = noise.kernels["0"].flatten(1)
    centers = weights == 1
    assert weights.shape == (300, 9)
    assert centers.sum(1).tolist() == [1] * 300
    assert (weights[~centers] <= 0.2).all()
    assert (weights[~centers] >= 0).all()
    assert float(weights[~centers].mean()) == pytest.approx(0.1, abs=0.01)
    assert centers.sum(0).tolist() == pytest.approx([300 / 9] * 9, abs=20)


def test_cuda_leaves_a_black_image_black() -> None:
    train = Split(torch.zeros(3, 3, 6, 6, dtype=torch.uint8), {"0": torch.tensor([0, 1, MISSING])})
    assert not craft("cuda", train, (2,)).delta(whole(train)).any()


def test_cuda_images_stay_in_range_after_forty_filters() -> None:
    classes = (2,) * 40
    train = training_set(10, classes, 12, 12)
    batch = whole(train)
    images = batch.images + craft("cuda", train, classes).delta(batch)
    assert images.min() >= -1e-6
    assert images.flatten(1).max(1).values.tolist() == pytest.approx([1.0] * 10, abs=1e-6)
