"""What every part of the catalog keeps to, and what its axis asks of it."""

import ast
import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from bench import api
from bench.api import MultiTaskData, Step
from bench.backbones.small import Small
from bench.catalog.build import build_part, load_part_class, part_settings
from bench.catalog.choice import Choice
from bench.catalog.description import describe_part
from bench.catalog.table import CATALOG
from bench.conformance.cases import Case
from bench.conformance.quick import build_quick_part
from bench.datasets import digits
from bench.engine.stages.context import seeded
from bench.errors import BenchError
from bench.tasks.classification import Classification
from bench.training.loaders import make_batch
from bench.training.loop import losses_of_outputs
from bench.training.net import MultiTaskNet
from bench.values import DENSE, MISSING, Batch, Split

PROTOCOLS: dict[str, Any] = {
    "dataset": api.Dataset,
    "attack": api.Attack,
    "backbone": api.Backbone,
    "weighting": api.Weighting,
    "defense": api.Defense,
    "regime": api.Regime,
}

parts = pytest.mark.parametrize(
    ("axis", "name"), [(axis, name) for axis, shelf in CATALOG.items() for name in shelf]
)


def each(axis: str) -> pytest.MarkDecorator:
    """Run a test for every part of an axis."""
    return pytest.mark.parametrize("name", CATALOG[axis])


# All axes


@parts
def test_a_part_is_a_frozen_value(axis: str, name: str) -> None:
    part = build_part(axis, name)
    assert isinstance(part, PROTOCOLS[axis])
    assert dataclasses.is_dataclass(part)
    assert load_part_class(axis, name).__dataclass_params__.frozen
    assert part == build_part(axis, name)
    assert hash(part) == hash(build_part(axis, name))
    assert pickle.loads(pickle.dumps(part)) == part


@parts
def test_a_part_has_a_version_which_is_no_parameter(axis: str, name: str) -> None:
    part = build_part(axis, name)
    assert type(part.version) is int
    assert part.version >= 1
    assert "version" not in {field.name for field in dataclasses.fields(part)}


@parts
def test_a_part_can_be_written_into_a_key(axis: str, name: str) -> None:
    choice = Choice(name)
    written = json.dumps(part_settings(choice, build_part(axis, choice)), allow_nan=False)
    params = json.loads(written)["params"]
    assert build_part(axis, Choice(name, tuple(p for p in params.items() if p[1] is not None))) == build_part(
        axis, choice
    )


@parts
def test_a_part_says_what_it_is_and_where_it_is_from(axis: str, name: str) -> None:
    description = describe_part(axis, name)
    assert description.summary.endswith((".", ":", ";"))
    assert description.source or "Not from a paper" in description.docstring
    for method in vars(PROTOCOLS[axis]):
        if not method.startswith("_") and callable(getattr(PROTOCOLS[axis], method)):
            assert getattr(load_part_class(axis, name), method).__doc__, f"{method} has no docstring"


@parts
def test_every_parameter_is_described_with_its_default(axis: str, name: str) -> None:
    description, kind = describe_part(axis, name), load_part_class(axis, name)
    described = {parameter.name: parameter for parameter in description.parameters}
    fields = dataclasses.fields(kind)
    assert list(described) == [field.name for field in fields]
    for field in fields:
        assert described[field.name].meaning, f"{field.name} is not described"
        assert ast.literal_eval(described[field.name].default) == field.default


def test_the_catalog_is_described_without_importing_torch() -> None:
    program = (
        "import sys; from bench.catalog import CATALOG, describe\n"
        "for axis, shelf in CATALOG.items():\n"
        "    for name in shelf: assert describe(axis, name).summary\n"
        "print(sorted({'torch', 'torchvision', 'numpy', 'sklearn', 'pandas', 'pydantic'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


# Weightings

CPU = torch.device("cpu")
TASKS = (
    Classification("two", ("a", "b")),
    Classification("three", ("a", "b", "c")),
    Classification("four", ("a", "b", "c", "d")),
)


def step_of(
    tasks: tuple[Classification, ...], seed: int, without_labels: int | None = None
) -> tuple[Step, MultiTaskNet]:
    """A training step of an untrained network on random images and labels; one task may have none."""
    torch.manual_seed(seed)
    net = MultiTaskNet(Small(width=2), tasks, (3, 32, 32))
    targets = {task.name: torch.randint(0, task.classes, (8,)) for task in tasks}
    if without_labels is not None:
        targets[tasks[without_labels].name][:] = MISSING
    features = net.encode(torch.rand(8, 3, 16, 16))
    losses = losses_of_outputs(net.apply_heads(features, (16, 16)), tasks, targets)
    labeled = torch.tensor([number != without_labels for number in range(len(tasks))])
    return Step(losses, labeled, features, net.shared_parameters(), losses.detach), net


@each("weighting")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_weighting_reaches_every_parameter_and_tells_its_weights(name: str, count: int) -> None:
    tasks = TASKS[:count]
    balancer = build_part("weighting", name).start(tasks, CPU)
    assert isinstance(balancer, api.Balancer)
    for number in range(3):
        step, net = step_of(tasks, number)
        before = step.losses.detach().clone()
        weights = balancer.backward(step)
        assert weights.shape == (count,)
        assert weights.isfinite().all()
        assert torch.equal(step.losses.detach(), before)
        for parameter in net.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
        assert all(head.weight.grad.any() for head in net.heads)  # type: ignore[union-attr, operator]
        balancer.finish_epoch(before)


@each("weighting")
def test_a_weighting_starts_every_training_run_afresh(name: str) -> None:
    weighting = build_part("weighting", name)

    def run() -> list[list[float]]:
        balancer = weighting.start(TASKS, CPU)
        torch.manual_seed(0)
        steps = [step_of(TASKS, number)[0] for number in range(4)]
        torch.manual_seed(1)
        return [balancer.backward(step).tolist() for step in steps]

    assert run() == run()


@each("weighting")
def test_a_weighting_goes_on_where_a_task_has_no_label(name: str) -> None:
    balancer = build_part("weighting", name).start(TASKS, CPU)
    for number, without in enumerate([None, 1, 0, None]):
        step, net = step_of(TASKS, number, without)
        weights = balancer.backward(step)
        assert weights.isfinite().all()
        for parameter in net.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
        for task, head in enumerate(net.heads):
            assert bool(head.weight.grad.any()) == (task != without)  # type: ignore[union-attr, operator]
        assert any(parameter.grad.any() for parameter in step.shared if parameter.grad is not None)
        balancer.finish_epoch(step.losses.detach())


@pytest.mark.parametrize("count", [1, 3])
def test_equal_weights_are_the_gradient_of_the_mean_loss(count: int) -> None:
    tasks = TASKS[:count]
    step, net = step_of(tasks, 0)
    wanted = torch.autograd.grad(step.losses.sum() / count, list(net.parameters()), retain_graph=True)
    weights = build_part("weighting", "ew").start(tasks, CPU).backward(step)
    assert weights.tolist() == pytest.approx([1 / count] * count)
    for parameter, gradient in zip(net.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-7)


# Defenses


@each("defense")
@pytest.mark.parametrize("channels", [1, 3])
def test_purifying_keeps_the_shape_and_the_type_and_its_input(name: str, channels: int) -> None:
    drawn = torch.randint(0, 256, (5, channels, 17, 15), generator=torch.Generator().manual_seed(0))
    targets = {task.name: torch.randint(0, task.classes, (5,)) for task in TASKS}
    released = Split(drawn.to(torch.uint8), {name: target.clone() for name, target in targets.items()})
    with seeded("purify", 0):
        purified = build_quick_part("defense", name).purify(released, TASKS, CPU)
    assert (purified.shape, purified.dtype) == (released.images.shape, torch.uint8)
    assert torch.equal(released.images.int(), drawn.int())
    assert all(torch.equal(released.targets[task], target) for task, target in targets.items())
    with seeded("purify", 0):
        again = build_quick_part("defense", name).purify(released, TASKS, CPU)
        assert torch.equal(again, purified)


ANY_DEFENSE = pytest.mark.parametrize(
    "name", [*CATALOG["defense"], "jpeg(quality=30)+cutmix", "none+mixup+ueraser"]
)


def augmented(name: str, case: Case, backbone: str) -> tuple[Batch, Batch]:
    """A batch, and what a defense makes of it; all that it may not touch is checked."""
    torch.manual_seed(0)
    net = MultiTaskNet(build_part("backbone", backbone), case.tasks, (3, 16, 16)).train()
    batch = make_batch(case.split(), torch.arange(case.count), CPU)
    before = [value.clone() for value in (batch.images, *batch.targets.values(), *net.state_dict().values())]
    with seeded("augment", 0):
        seen = build_part("defense", name).augment(batch, net, case.tasks)
    after = [batch.images, *batch.targets.values(), *net.state_dict().values()]
    assert all(same(one, other) for one, other in zip(before, after, strict=True))
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    with seeded("augment", 0):
        again = build_part("defense", name).augment(batch, net, case.tasks)
    assert torch.equal(again.images, seen.images)
    assert again.share == seen.share
    return batch, seen


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have equal values, where labels are missing too."""
    return torch.equal(one.double().nan_to_num(-99), other.double().nan_to_num(-99))


@ANY_DEFENSE
def test_augmenting_gives_images_and_keeps_what_it_got(name: str) -> None:
    batch, seen = augmented(name, Case(classes=(2, 3, 4), missing=0.3, count=8), "small(width=2)")
    assert (seen.images.shape, seen.images.dtype) == (batch.images.shape, batch.images.dtype)
    assert not seen.images.requires_grad
    assert seen.images.min() >= 0
    assert seen.images.max() <= 1
    assert torch.equal(seen.index, batch.index)
    assert 0 <= seen.share <= 1
    for targets in (seen.targets, seen.mixed or batch.targets):
        assert set(targets) == set(batch.targets)
        for task, target in batch.targets.items():
            assert torch.equal(targets[task].sort().values, target.sort().values)
    assert all(torch.equal(seen.targets[task], target) for task, target in batch.targets.items())


@ANY_DEFENSE
def test_augmenting_images_with_maps_moves_no_pixel_of_them(name: str) -> None:
    if not build_part("defense", name).dense:
        pytest.skip("suites leave it out on dense tasks")
    case = Case(classes=(2,), dense=True, missing=0.1, count=6)
    batch, seen = augmented(name, case, "dense-small(width=2)")
    for targets in (seen.targets, seen.mixed or seen.targets):
        for task in case.tasks:
            target, before = targets[task.name], batch.targets[task.name]
            assert (target.shape, target.dtype) == (before.shape, before.dtype)
            if task.kind in DENSE:
                pairs = target.nan_to_num(-99)[:, None] == before.nan_to_num(-99)[None]
                assert pairs.any(1).all()  # some image has this label at this pixel


# Regimes


@each("regime")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_regime_trains_every_task_once(name: str, count: int) -> None:
    groups = build_part("regime", name).groups(TASKS[:count])
    assert all(groups)
    assert sorted(task.name for group in groups for task in group) == sorted(
        task.name for task in TASKS[:count]
    )


# Datasets


def load_small(name: str, request: pytest.FixtureRequest, cache: Path) -> MultiTaskData:
    """Load a dataset at a small size; skip where it needs images that are not here."""
    dataset = build_quick_part("dataset", name)
    root = request.getfixturevalue("data_root") if dataset.missing(None) else None
    if missing := dataset.missing(root):
        pytest.skip(missing)
    data: MultiTaskData = dataset.load(root, cache)
    return data


@each("dataset")
def test_a_dataset_has_images_and_a_label_of_every_task(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = load_small(name, request, tmp_path)
    names = [task.name for task in data.tasks]
    assert len(set(names)) == len(names) > 0
    assert all(isinstance(task, api.Task) for task in data.tasks)
    assert data.train.images.shape[1:] == data.test.images.shape[1:]
    if data.augmentation.crop is not None:
        assert data.augmentation.crop <= min(data.train.images.shape[2:])
    for split in (data.train, data.test):
        assert split.images.dtype == torch.uint8
        assert len(split) > 0
        assert set(split.targets) == set(names)
        for task in data.tasks:
            target = split.targets[task.name]
            if task.kind == "classification":
                assert (target.shape, target.dtype) == ((len(split),), torch.int64)
            else:
                assert (len(target), *target.shape[-2:]) == (len(split), *split.images.shape[2:])
            if task.kind in ("classification", "segmentation"):
                assert ((target >= 0) & (target < task.classes) | (target == MISSING)).all()
            assert task.labeled(target).any()
        assert {task.kind for task in data.tasks} == build_part("dataset", name).kinds


@each("dataset")
def test_a_dataset_is_the_same_every_time_and_leaves_chance_alone(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    first = load_small(name, request, tmp_path / "first")
    drawn = torch.rand(3)
    second = load_small(name, request, tmp_path / "second")
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    for one, other in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(one.images, other.images)
        assert all(torch.equal(one.targets[task], other.targets[task]) for task in one.targets)


@each("dataset")
def test_a_dataset_says_what_is_missing(name: str, tmp_path: Path) -> None:
    dataset = build_quick_part("dataset", name)
    for root in (None, tmp_path):
        missing = dataset.missing(root)
        if missing is None:
            assert len(dataset.load(root, tmp_path / "cache").train)
        else:
            assert "--data-root" in missing
            with pytest.raises(BenchError, match="--data-root"):
                dataset.load(root, tmp_path / "cache")


# The embedded dataset


def content(split: Split) -> str:
    """A hash of a split's images and labels."""
    pieces = [split.images, *(split.targets[task] for task in sorted(split.targets))]
    return hashlib.sha256(b"".join(piece.contiguous().numpy().tobytes() for piece in pieces)).hexdigest()[:16]


def test_digits_are_the_same_on_every_machine(tmp_path: Path) -> None:
    data = build_part("dataset", "digits(train=60, test=20)").load(None, tmp_path)
    assert (content(data.train), content(data.test)) == ("747c5ab8b28bb996", "f2aa8ac636340aa6")


def test_digits_of_another_data_seed_are_others(tmp_path: Path) -> None:
    first, second = (
        build_part("dataset", f"digits(train=60, test=20, data_seed={seed})").load(None, tmp_path)
        for seed in (0, 1)
    )
    assert content(first.train) != content(second.train)
    assert content(first.test) != content(second.test)


def test_labels_of_digits_agree_with_each_other(tmp_path: Path) -> None:
    data = build_part("dataset", "digits(train=500, test=200)").load(None, tmp_path)
    assert [task.name for task in data.tasks] == ["left", "right", "larger", "sum-odd"]
    for split in (data.train, data.test):
        rows = [split.targets[task].tolist() for task in ("left", "right", "larger", "sum-odd")]
        for left, right, larger, odd in zip(*rows, strict=True):
            assert larger == (1 if right > left else 0)
            assert odd == (1 if (left + right) % 2 else 0)
        assert set(rows[0]) == set(rows[1]) == set(range(10))


@pytest.mark.parametrize("place", [digits.TABLE, "somewhere/else"])
def test_the_source_digits_are_those_of_scikit_learn(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: asked.append(0) or load_digits(**_))
    monkeypatch.setattr(digits, "TABLE", place)
    found = digits.read_glyphs()
    assert bool(asked) == (place != "sklearn/datasets/data/digits.csv.gz")
    for mine, theirs in zip(found, load_digits(return_X_y=True), strict=True):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)


def numbered(monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float64]:
    """Give every source digit its own number as its label, and return the digits [n 8 8]."""
    glyphs, labels = load_digits(return_X_y=True)
    numbers = np.arange(len(labels))
    monkeypatch.setattr(digits, "read_glyphs", lambda: (glyphs, numbers))
    return glyphs.reshape(-1, 8, 8)  # type: ignore[no-any-return]


@pytest.mark.parametrize("data_seed", [0, 1, 2])
def test_no_source_digit_is_in_both_splits(
    data_seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    glyphs = numbered(monkeypatch)
    dataset = build_part("dataset", f"digits(train=3000, test=3000, data_seed={data_seed})")
    data = dataset.load(None, tmp_path)
    used = [
        set(split.targets["left"].tolist()) | set(split.targets["right"].tolist())
        for split in (data.train, data.test)
    ]
    assert not used[0] & used[1]
    assert len(used[0]) + len(used[1]) > 0.9 * len(glyphs)


def test_every_canvas_shows_the_digits_it_is_labeled_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    glyphs = torch.from_numpy(numbered(monkeypatch)).float()[:, None]
    monkeypatch.setattr(digits, "GRAIN", 0.0)
    data = build_part("dataset", "digits(train=20, test=20)").load(None, tmp_path)
    for split in (data.train, data.test):
        for row, image in enumerate(split.images.float()):
            for task, half in (("left", image[:, :, :16]), ("right", image[:, :, 16:])):
                shown = functional.interpolate(
                    glyphs[split.targets[task][row]][None], scale_factor=2, mode="bilinear"
                )[0, 0]
                assert best_correlation(half.mean(0), shown) > 0.98


def best_correlation(half: Tensor, glyph: Tensor) -> float:
    """The largest correlation of a digit with its half of the canvas, over the heights it may stand at."""
    canvases = torch.zeros(17, 32, 16)
    for top, canvas in enumerate(canvases):
        canvas[top : top + 16] = glyph
    pairs = [torch.stack([half.flatten(), canvas.flatten()]) for canvas in canvases]
    return max(float(torch.corrcoef(pair)[0, 1]) for pair in pairs)
