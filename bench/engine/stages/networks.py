"""Build the networks of a run on its device, in its precision."""

from collections.abc import Callable, Sequence
from typing import cast

from bench.api import Backbone, BuildingRegime, Precision, Regime, Task
from bench.engine.stages.context import RunContext
from bench.training.net import MultiTaskNet
from bench.values import Shape

NetworkType = Callable[[Backbone, Sequence[Task], Shape, int, Precision], MultiTaskNet]


def build_network(
    backbone: Backbone,
    tasks: Sequence[Task],
    shape: Shape,
    run_context: RunContext,
    pieces: int = 1,
    regime: Regime | None = None,
) -> MultiTaskNet:
    """Return a network for images [c h w] of this shape, which splits batches into ``pieces``.

    The run context says where and in which precision it computes, and whether its encoder is compiled. A
    regime may have a network of its own.
    """
    build = cast("NetworkType", regime.build if isinstance(regime, BuildingRegime) else MultiTaskNet)
    net = build(backbone, tasks, shape, pieces, run_context.precision).to(run_context.torch_device)
    if run_context.compile:
        net.encoder.compile()  # in place, so that the names of the weights stay
    return net
