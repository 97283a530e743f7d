"""The options ``--precision`` and ``--compile``: what they change, and where that is said."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.catalog.build import build_part
from bench.conformance.cases import Case
from bench.engine.planning.present_data import PresentData
from bench.engine.planning.remaining_work import RemainingWork, RerunPolicy, find_remaining_work
from bench.engine.stages.context import RunContext, describe_environment
from bench.engine.stages.networks import build_network
from bench.training.net import MultiTaskNet
from bench.values import Precision
from tests.engine import tiny

FLAT, DENSE = Case(classes=(2, 3), count=4), Case(classes=(2,), dense=True, count=4)


def outputs_and_gradient(
    case: Case, precision: Precision, backbone: str, pieces: int = 1
) -> tuple[list[Tensor], Tensor]:
    """Return a network's outputs, and the gradient of one of its weights."""
    torch.manual_seed(0)
    net = MultiTaskNet(build_part("backbone", backbone), case.tasks, (3, 16, 16), pieces, precision)
    outputs = net(torch.rand(4, 3, 16, 16))
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    weight = next(net.encoder.parameters())
    assert weight.grad is not None
    return [output.detach() for output in outputs], weight.grad


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(("case", "backbone"), [(FLAT, "small(width=4)"), (DENSE, "dense-small(width=4)")])
def test_bf16_is_near_float32_and_not_the_same(case: Case, backbone: str, pieces: int) -> None:
    plain, fast = (outputs_and_gradient(case, kind, backbone, pieces) for kind in ("float32", "bf16"))
    for wanted, found in zip([*plain[0], plain[1]], [*fast[0], fast[1]], strict=True):
        assert found.dtype == torch.float32
        assert not torch.equal(found, wanted)
        # bfloat16 has 8 bits, and a gradient of four images passes ten layers.
        assert functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.9


def test_the_encoder_multiplies_in_bf16_and_the_heads_do_not() -> None:
    net = MultiTaskNet(build_part("backbone", "small(width=4)"), FLAT.tasks, (3, 16, 16), 1, "bf16")
    kinds: dict[str, torch.dtype] = {}

    def note(name: str) -> None:
        module = net.get_submodule(name)
        module.register_forward_hook(lambda _, __, output: kinds.update({name: output.dtype}))

    layers = {name: type(module) for name, module in net.named_modules()}
    convolutions = [name for name, kind in layers.items() if kind is nn.Conv2d]
    linear = [name for name, kind in layers.items() if kind is nn.Linear]
    for name in (*convolutions, *linear):
        note(name)
    net(torch.rand(2, 3, 16, 16))
    assert {kinds[name] for name in convolutions} == {torch.bfloat16}
    assert {kinds[name] for name in linear} == {torch.float32}


@pytest.mark.parametrize("asked", [True, False])
def test_the_encoder_is_compiled_if_asked(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda *modules: compiled.extend(modules))
    context = replace(tiny.run_context(tmp_path), compile=asked)
    net = build_network(build_part("backbone", "small(width=2)"), FLAT.tasks, (3, 16, 16), context)
    assert compiled == ([net.encoder] if asked else [])


def test_the_environment_notes_both(tmp_path: Path) -> None:
    run_context = tiny.run_context(tmp_path)
    found = describe_environment(run_context)
    assert (found["precision"], found["compile"]) == ("float32", False)
    found = describe_environment(replace(run_context, precision="bf16", compile=True))
    assert (found["precision"], found["compile"]) == ("bf16", True)


def test_results_of_another_precision_are_kept_and_named(tmp_path: Path) -> None:
    plan, context = tiny.plan(matrix={"attack": ["clean"]}), tiny.run_context(tmp_path)
    tiny.run(plan, tmp_path)

    def found(run_context: RunContext, rerun: RerunPolicy = "failed") -> RemainingWork:
        return find_remaining_work(plan, context.store, rerun, PresentData(run_context))

    assert found(context).notices == ()
    other = found(replace(context, precision="bf16"))
    assert (other.cells, other.notices) == (
        (),
        (f"computed in float32, not in bf16: 1 cell in {tmp_path}; --rerun all makes them again",),
    )
    assert found(replace(context, precision="bf16"), "all").notices == ()
