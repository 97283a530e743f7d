"""The noise report against numbers worked out by hand, plain NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from bench.engine.stages import noise_report as module
from bench.engine.stages.noise_report import noise_report
from bench.record import TaskNoise
from bench.tasks.classification import Classification
from bench.values import MISSING, Split

CPU = torch.device("cpu")


def task(name: str, classes: int = 2) -> Classification:
    return Classification(name, tuple(map(str, range(classes))))


def gray(shape: tuple[int, ...]) -> Tensor:
    """Images in the middle of their range, where no change is cut off."""
    return torch.full(shape, 128, dtype=torch.uint8)


def of_task(change: Tensor, labels: Tensor, classes: int = 2) -> TaskNoise:
    train = Split(gray(tuple(change.shape)), {"a": labels})
    return noise_report(train, change, [task("a", classes)], CPU)["tasks"]["a"]


def random(shape: tuple[int, ...], seed: int, top: int = 8) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-top, top + 1, shape, generator=draw).to(torch.int8)


# Spread and distance


def test_spread_and_distance_by_hand() -> None:
    # Class 0: (3, 0) and (3, 8), mean (3, 4), each 4 away. Class 1: one image (0, 0). The last has no label.
    change = torch.tensor([[3, 0], [3, 8], [0, 0], [100, 100]], dtype=torch.int16).view(4, 1, 1, 2)
    found = of_task(change, torch.tensor([0, 0, 1, MISSING]))
    assert found["intra_spread"] == pytest.approx((4 + 0) / 2 / 255)
    assert found["inter_distance"] == pytest.approx(5 / 255)


def test_distance_is_over_all_pairs_of_classes_that_occur() -> None:
    change = torch.tensor([[0, 0], [3, 4], [6, 8]], dtype=torch.int8).view(3, 1, 1, 2)
    found = of_task(change, torch.tensor([0, 4, 2]), classes=6)
    assert found["inter_distance"] == pytest.approx((5 + 5 + 10) / 3 / 255)
    assert found["intra_spread"] == 0


@pytest.mark.parametrize("together", [1, 7, 10**6])
@pytest.mark.parametrize("channels", [1, 3])
def test_spread_and_distance_are_those_of_numpy(
    channels: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VALUES", together * channels * 16)
    change = random((60, channels, 4, 4), seed=channels)
    labels = torch.from_numpy(np.random.default_rng(0).integers(MISSING, 4, 60))
    found = of_task(change, labels, classes=4)
    rows = change.numpy().reshape(60, -1) / 255
    groups = [rows[labels.numpy() == label] for label in range(4)]
    means = [group.mean(0) for group in groups]
    spreads = [
        np.sqrt(np.mean(np.sum((group - mean) ** 2, 1))) for group, mean in zip(groups, means, strict=True)
    ]
    distances = [np.linalg.norm(means[i] - means[j]) for i in range(4) for j in range(i)]
    assert found["intra_spread"] == pytest.approx(np.mean(spreads))
    assert found["inter_distance"] == pytest.approx(np.mean(distances))


# The linear classifier


def test_one_pattern_per_class_has_no_spread_and_is_separable() -> None:
    draw = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 10, (300,), generator=draw)
    found = of_task(random((10, 3, 8, 8), seed=1)[labels], labels, classes=10)
    assert found["intra_spread"] == 0
    assert found["linear_accuracy"] == 1
    assert found["linear_balanced_accuracy"] == 1
    assert found["inter_distance"] is not None
    assert found["inter_distance"] > 0.1


def test_a_single_pixel_per_class_is_separable_below_noise_of_the_full_budget() -> None:
    """Every pixel counts: averaging neighbors, or a few projections, would lose it."""
    draw = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 2, (1200,), generator=draw)
    change = random((1200, 1, 8, 8), seed=2)
    change[:, 0, 5, 3] = torch.where(labels == 1, 8, -8).to(torch.int8)
    found = of_task(change, labels)
    assert found["linear_accuracy"] is not None
    assert found["linear_accuracy"] > 0.9


def test_random_noise_of_every_image_is_near_the_floor() -> None:
    draw = torch.Generator().manual_seed(5)
    uneven = (torch.rand(2000, generator=draw) < 0.9).long()
    change = random((2000, 1, 12, 12), seed=6)
    for labels, classes in ((uneven, 2), (torch.randint(0, 10, (2000,), generator=draw), 10)):
        found = of_task(change, labels, classes)
        assert found["linear_accuracy"] == pytest.approx(found["linear_floor"], abs=0.06)
        assert found["linear_balanced_accuracy"] == pytest.approx(1 / classes, abs=0.05)
    # Uniform on -8 ... 8 is of variance 24, and there are 144 pixels.
    assert found["intra_spread"] == pytest.approx((24 * 144) ** 0.5 / 255, rel=0.02)


def test_a_rare_attribute_among_forty_is_found_in_its_own_pixels() -> None:
    draw = torch.Generator().manual_seed(7)
    labels = (torch.rand(1200, 40, generator=draw) < 0.03).long()
    patterns = random((40, 2, 1, 12, 12), seed=8)
    change = torch.zeros(1200, 1, 12, 12, dtype=torch.int8)
    for number in range(40):  # a cell of three pixels each
        rows = slice(3 * number, 3 * number + 3)
        change.flatten(1)[:, rows] = patterns[number, labels[:, number]].flatten(1)[:, rows]
    tasks = [task(f"{number}") for number in range(40)]
    train = Split(gray(tuple(change.shape)), {t.name: labels[:, i] for i, t in enumerate(tasks)})
    found = noise_report(train, change, tasks, CPU)["tasks"]
    assert list(found) == [t.name for t in tasks]
    assert min(one["linear_balanced_accuracy"] or 0 for one in found.values()) == 1


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_classifier_is_scikit_learns_ridge(missing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINEAR_IMAGES", 160)
    monkeypatch.setattr(module, "COLUMNS", 10)
    draw = torch.Generator().manual_seed(9)
    labels = torch.randint(0, 3, (200,), generator=draw)
    change = random((200, 3, 5, 5), seed=10) + random((3, 3, 5, 5), seed=11, top=1)[labels]
    labels[torch.rand(200, generator=draw) < missing] = MISSING
    train = Split(gray(tuple(change.shape)), {"a": labels, "b": (labels == 2).long()})
    found = noise_report(train, change, [task("a", 3), task("b")], CPU)["tasks"]["a"]

    rows = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:160].numpy()
    x, y = change.numpy().reshape(200, -1)[rows].astype(float), labels.numpy()[rows]
    fit, asked = y[:120] != MISSING, y[120:] != MISSING
    known, answers = y[:120][fit], y[120:][asked]
    centered = x[:120][fit] - x[:120][fit].mean(0)
    # As `Ridge` has it: a penalty on the squared weights, and an intercept that is free.
    penalty = np.mean(np.sum(centered**2, 1)) + 1e-6 * np.mean(np.sum(x[:120][fit] ** 2, 1))
    ridge = Ridge(alpha=penalty).fit(x[:120][fit], np.eye(3)[known])
    predicted = ridge.predict(x[120:][asked]).argmax(1)
    assert found["linear_accuracy"] == pytest.approx(np.mean(predicted == answers))
    assert found["linear_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(answers, predicted))
    assert found["linear_floor"] == pytest.approx(np.mean(answers == np.bincount(known).argmax()))
    assert 0.34 < (found["linear_accuracy"] or 0) < 1, "neither all nor nothing, else this shows little"


@pytest.mark.parametrize(
    "labels", [[MISSING] * 12, [1] * 12, [0] + [MISSING] * 11], ids=["none", "one class", "one image"]
)
def test_fewer_than_two_classes_have_no_classifier_and_no_distance(labels: list[int]) -> None:
    found = of_task(random((12, 1, 4, 4), seed=12), torch.tensor(labels))
    spread = found.pop("intra_spread")
    assert set(found.values()) == {None}
    assert (spread is None) == (set(labels) == {MISSING})


@pytest.mark.parametrize("images", [1, 2, 3, 4, 5])
def test_a_handful_of_images_is_reported_all_the_same(images: int) -> None:
    report = noise_report(
        Split(gray((images, 1, 4, 4)), {"a": torch.arange(images) % 2}),
        random((images, 1, 4, 4), seed=images),
        [task("a")],
        CPU,
    )
    assert (report["tasks"]["a"]["linear_accuracy"] is None) == (images < 4)


def test_the_same_noise_for_all_images_tells_nothing() -> None:
    labels = torch.arange(200) % 3
    found = of_task(random((1, 3, 6, 6), seed=13).repeat(200, 1, 1, 1), labels, classes=3)
    assert found["intra_spread"] == found["inter_distance"] == 0
    assert found["linear_balanced_accuracy"] == pytest.approx(1 / 3)


# Structural similarity


def plain_ssim(clean: np.ndarray, other: np.ndarray) -> float:
    """SSIM of two images [c h w] in [0, 1] as Wang et al. define it, by separable filters."""
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        down = correlate1d(image, weights, axis=1, mode="mirror")
        return correlate1d(down, weights, axis=2, mode="mirror")

    x, y = mean(clean), mean(other)
    xx, yy, xy = mean(clean**2) - x * x, mean(other**2) - y * y, mean(clean * other) - x * y
    light = (2 * x * y + 0.01**2) / (x * x + y * y + 0.01**2)
    return float(np.mean(light * (2 * xy + 0.03**2) / (xx + yy + 0.03**2)))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 16, 9)])
def test_ssim_is_that_of_numpy(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SSIM_VALUES", 4 * shape[0] * shape[1] * shape[2])
    draw = torch.Generator().manual_seed(14)
    images = torch.randint(40, 210, (9, *shape), generator=draw).to(torch.uint8)
    images[:4] = 120  # flat images, where noise shows most
    change = random((9, *shape), seed=15)
    clean, other = images.numpy() / 255, (images + change).numpy() / 255
    wanted = np.mean([plain_ssim(x, y) for x, y in zip(clean, other, strict=True)])
    found = noise_report(Split(images, {}), change, [], CPU)
    assert found == {"ssim": pytest.approx(wanted, abs=2e-4), "tasks": {}}
    assert wanted < 0.9


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 7])
def test_images_smaller_than_the_window_have_a_similarity(side: int) -> None:
    draw = torch.Generator().manual_seed(16)
    images = torch.randint(40, 210, (4, 3, side, side), generator=draw).to(torch.uint8)
    low, high = (
        noise_report(Split(images, {}), random(tuple(images.shape), 17, top), [], CPU)["ssim"]
        for top in (40, 2)
    )
    assert low is not None
    assert high is not None
    assert 0 < low < high < 1


# The report as a whole


@pytest.mark.parametrize("change", [None, torch.zeros(4, 1, 4, 4, dtype=torch.int8)])
def test_where_nothing_changed_there_is_nothing_to_report(change: Tensor | None) -> None:
    train = Split(gray((4, 1, 4, 4)), {"a": torch.tensor([0, 1, 0, 1])})
    assert noise_report(train, change, [task("a")], CPU) == {"ssim": 1.0, "tasks": {}}


def test_the_report_neither_reads_nor_moves_a_random_state_and_leaves_its_inputs_alone() -> None:
    change = random((40, 1, 8, 8), seed=18)
    train = Split(gray((40, 1, 8, 8)), {"a": torch.arange(40) % 2})
    before = [part.clone() for part in (change, train.images, train.targets["a"])]
    reports = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        reports.append(noise_report(train, change, [task("a")], CPU))
        assert torch.equal(torch.get_rng_state(), state)
    assert reports[0] == reports[1]
    for part, old in zip((change, train.images, train.targets["a"]), before, strict=True):
        assert torch.equal(part, old)


def test_a_change_without_a_budget_is_reported_like_any_other() -> None:
    images = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(8) % 2
    change = torch.zeros(images.shape, dtype=torch.int16)
    change[labels == 1] = 255
    report = noise_report(Split(images, {"a": labels}), change, [task("a")], CPU)
    assert report["tasks"]["a"]["inter_distance"] == pytest.approx(8.0)
    # Black stays black in one half and is white in the other, where only the constants are left.
    assert report["ssim"] == pytest.approx((1 + 0.01**2 / (1 + 0.01**2)) / 2, abs=1e-6)
