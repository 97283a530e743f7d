"""Batch normalization of a frozen network folded into its convolutions, which then compute faster."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import GraphModule, Node, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3
"""Largest difference of the outputs, as a share of the largest output."""


def fold_batch_norms(net: nn.Module, images: Float[Tensor, "b c h w"]) -> nn.Module:
    """Return a copy of a network in evaluation mode with its batch normalization folded into convolutions.

    A convolution followed by batch normalization is one convolution with other weights. `torch.fx` finds such
    pairs in every part of the network that it can trace; the other parts stay as they are.

    Args:
        net: in evaluation mode; not changed.
        images: on which the copy must have the same outputs, up to rounding. If it has not, as when a
            network's own code goes around a layer, the network itself is returned.
    """
    try:
        folded = copy.deepcopy(net)
        _fold_children(folded)
        return folded if _agree(net, folded, images) else net
    except Exception:  # code from outside: it may not be copied, or call what a folded part does not have
        return net


def _fold_children(parent: nn.Module) -> None:
    """Fold every child in place; if one cannot be traced, its children."""
    for name, child in parent.named_children():
        if not _has_norm(child):
            continue
        try:
            setattr(parent, name, _fold_traced(GraphModule(child, _NormTracer().trace(child))))
        except Exception:  # tracing runs code from outside on symbols, which can raise anything
            _fold_children(child)


def _has_norm(part: nn.Module) -> bool:
    return any(isinstance(layer, nn.BatchNorm2d) for layer in part.modules())


class _NormTracer(Tracer):
    """Looks only into parts of a network that have batch normalization."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a part stays as it is."""
        return not _has_norm(m) or super().is_leaf_module(m, module_qualified_name)


def _fold_traced(net: GraphModule) -> GraphModule:
    """Fold every batch normalization of a traced network that is all that reads a convolution's output."""
    for node in net.graph.nodes:
        norm, before = _layer(net, node), node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(before, Node) or len(before.users) > 1:
            continue
        convolution = _layer(net, before)
        if isinstance(convolution, nn.Conv2d) and norm.track_running_stats:
            net.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            net.graph.erase_node(node)
    net.recompile()
    net.delete_all_unused_submodules()
    return net


def _layer(net: GraphModule, node: Node) -> nn.Module | None:
    """Return the layer that a node of the graph calls, None if it calls none."""
    return net.get_submodule(str(node.target)) if node.op == "call_module" else None


@torch.no_grad()
def _agree(net: nn.Module, folded: nn.Module, images: Tensor) -> bool:
    pairs = zip(net(images), folded(images), strict=True)
    return all(bool((fast - plain).abs().max() <= TOLERANCE * plain.abs().max()) for plain, fast in pairs)
