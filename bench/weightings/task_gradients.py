"""The gradient of every task, and how to replace their sum by another gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import Step

DOUBLED_AT_A_TIME = 2**16
"""Parameters whose gradients are copied in double precision at a time."""


def feature_gradients(step: Step) -> Float[Tensor, "t b ..."]:
    """Return the gradient of every task's loss with respect to the shared features."""
    losses = step.losses.unbind()
    return torch.stack([torch.autograd.grad(loss, step.features, retain_graph=True)[0] for loss in losses])


def backward_features(step: Step, gradient: Float[Tensor, "b ..."]) -> None:
    """Back-propagate each task's own gradient into its head, and this gradient of the features below them."""
    handle = step.features.register_hook(lambda _: gradient)
    step.losses.sum().backward()
    handle.remove()


def parameter_gradients(step: Step) -> Float[Tensor, "t p"]:
    """Back-propagate each task's own gradient into its head, and return its gradients of shared parameters.

    It takes one backward pass per task, the minimum. Passes are not run in parallel: that takes the memory of
    as many networks, and is no faster if one pass uses the whole processor.
    """
    sizes = [parameter.numel() for parameter in step.shared]
    gradients = step.losses.new_zeros(len(step.losses), sum(sizes))
    for row, loss in zip(gradients, step.losses.unbind(), strict=True):
        loss.backward(retain_graph=True)
        for part, parameter in zip(row.split(sizes), step.shared, strict=True):
            if parameter.grad is not None:
                part.copy_(parameter.grad.flatten())
                parameter.grad = None
    return gradients


def set_parameter_gradient(step: Step, gradient: Float[Tensor, " p"]) -> None:
    """Make this the gradient of the shared parameters."""
    sizes = [parameter.numel() for parameter in step.shared]
    for part, parameter in zip(gradient.split(sizes), step.shared, strict=True):
        parameter.grad = part.view_as(parameter)


def inner_products(gradients: Float[Tensor, "t p"], double: bool) -> Float[Tensor, "t t"]:
    """Return the inner products of the gradients, on the CPU.

    In double precision they are summed over some parameters at a time: a copy of all takes twice the memory.
    """
    if not double:
        return (gradients @ gradients.T).cpu()
    products = gradients.new_zeros(len(gradients), len(gradients), dtype=torch.float64)
    for part in gradients.split(DOUBLED_AT_A_TIME, dim=1):
        wide = part.double()
        products += wide @ wide.T
    return products.cpu()
