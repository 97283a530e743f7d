"""The stages of an encoder, found in the modules that it is made of."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from bench.values import Shape

POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


def list_layers(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of a network in order: single layers, and groups of layers such as ``layer1``.

    A `torch.nn.Sequential` that has poolings, or others of its kind, is no group: its parts are yielded.
    """
    for part in net.children():
        if isinstance(part, nn.Sequential) and any(isinstance(p, (nn.Sequential, *POOLINGS)) for p in part):
            yield from list_layers(part)
        else:
            yield part


@torch.no_grad()
def is_sequence(net: nn.Module, layers: Sequence[nn.Module], shape: Shape) -> bool:
    """Return whether a network computes the same as its layers one after the other; tried on an image."""
    training, image = net.training, torch.linspace(0, 1, torch.Size(shape).numel()).view(1, *shape)
    net.eval()
    try:
        return torch.equal(net(image.clone()).flatten(), nn.Sequential(*layers)(image).flatten())
    except (RuntimeError, TypeError):  # a layer does not take what the one before it returns
        return False
    finally:
        net.train(training)


def split_at_poolings(net: nn.Module, shape: Shape) -> tuple[list[nn.Module], nn.Module]:
    """Return the stages of an encoder, each with parameters, and what follows the last one.

    A stage ends at a pooling or at a group of layers. An encoder whose forward pass is not the sequence of
    its layers, or that has none of these, is one stage.
    """
    layers, stages = list(list_layers(net)), list[list[nn.Module]]()
    open_stage: list[nn.Module] = []
    for layer in layers if is_sequence(net, layers, shape) else ():
        open_stage.append(layer)
        if isinstance(layer, POOLINGS) or any(layer.children()):
            if stages and not any(True for part in open_stage for _ in part.parameters()):
                stages[-1] += open_stage
            else:
                stages.append(open_stage)
            open_stage = []
    if not stages:
        return [net], nn.Identity()
    return [nn.Sequential(*stage) for stage in stages], nn.Sequential(*open_stage)


def pair_layers(net: nn.Module, shape: Shape) -> tuple[nn.Module, list[tuple[nn.Module, nn.Module]]]:
    """Return an encoder's stem, and the first and the last part of each of its stages.

    The stages are its groups of layers, each with its last layer apart; if it has none, its convolutions in
    pairs, after the first one. There are none in an encoder that is not a sequence of such layers.
    """
    layers = list(list_layers(net))
    if not is_sequence(net, layers, shape):
        return nn.Identity(), []
    groups = [isinstance(layer, nn.Sequential) and len(layer) > 1 for layer in layers]
    if any(groups):
        start = groups.index(True)
        stages = [(layer[:-1], layer[-1]) for layer in layers[start:] if isinstance(layer, nn.Sequential)]
        return nn.Sequential(*layers[:start]), stages
    starts = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    if len(starts) < 3:
        return nn.Identity(), []
    ends = [*starts[1:], len(layers)]
    blocks = [nn.Sequential(*layers[start:end]) for start, end in zip(starts, ends, strict=True)]
    if len(blocks) % 2 == 0 and len(blocks) > 2:
        blocks[-2:] = [nn.Sequential(*blocks[-2:])]
    return nn.Sequential(*layers[: ends[0]]), list(zip(blocks[1::2], blocks[2::2], strict=False))


@torch.no_grad()
def count_channels(stages: Sequence[nn.Module], shape: Shape) -> list[int]:
    """Return the number of channels, or of features, that every stage returns for images of this shape."""
    counts, activations = [], torch.zeros(1, *shape)
    for stage in stages:
        training = stage.training
        activations = stage.eval()(activations)
        stage.train(training)
        counts.append(activations.shape[1])
    return counts
