"""What the parts of the catalog keep to beyond their contract."""

import ast
import dataclasses
import pickle
import subprocess
import sys

import pytest
import torch

from bench.catalog.build import build_part, load_part_class
from bench.catalog.description import describe_part
from bench.catalog.parts import CATALOG
from bench.conformance.part import CPU, PROTOCOLS
from bench.conformance.weighting_checks import TASKS, make_step

parts = pytest.mark.parametrize(
    ("axis", "name"), [(axis, name) for axis, entries in CATALOG.items() for name in entries]
)


@parts
def test_a_part_can_be_sent_to_a_worker(axis: str, name: str) -> None:
    part = build_part(axis, name)
    assert pickle.loads(pickle.dumps(part)) == part


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
        "import sys; from bench.catalog.description import describe_part\n"
        "from bench.catalog.parts import CATALOG\n"
        "for axis, parts in CATALOG.items():\n"
        "    for name in parts: assert describe_part(axis, name).summary\n"
        "print(sorted({'torch', 'torchvision', 'numpy', 'sklearn', 'pandas', 'pydantic'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("count", [1, 3])
def test_equal_weights_are_the_gradient_of_the_mean_loss(count: int) -> None:
    tasks = TASKS[:count]
    step, net = make_step(tasks, 0)
    wanted = torch.autograd.grad(step.losses.sum() / count, list(net.parameters()), retain_graph=True)
    weights = build_part("weighting", "ew").start(tasks, CPU).backward(step)
    assert weights.tolist() == pytest.approx([1 / count] * count)
    for parameter, gradient in zip(net.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-7)
