"""The gradient of every task, and how to replace their sum by another gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from bench.api import Step

DOUBLED_AT_A_TIME = 2**16
"""Parameters whose gradients are copied in double precision at a time."""


def gradients_by_task(step: Step, inputs: Tensor) -> Float[Tensor, "t ..."]:
    """Return the gradient of every task's loss with respect to a tensor at or near the features.

    Linear heads are differentiated for all tasks at once; decoders, which need much memory, one by one.
    """
    if step.features.ndim == 2:
        each = torch.eye(len(step.losses), device=step.losses.device)
        (gradients,) = torch.autograd.grad(
            step.losses, inputs, each, retain_graph=True, is_grads_batched=True
        )
        return gradients
    losses = step.losses.unbind()
    return torch.stack([torch.autograd.grad(loss, inputs, retain_graph=True)[0] for loss in losses])


def feature_gradients(step: Step) -> Float[Tensor, "t b ..."]:
    """Return the gradient of every task's loss with respect to the shared features."""
    return gradients_by_task(step, step.features)


def backward_features(step: Step, gradient: Float[Tensor, "b ..."]) -> None:
    """Back-propagate each task's own gradient into its head, and this gradient of the features below them."""
    handle = step.features.register_hook(lambda _: gradient)
    step.losses.sum().backward()
    handle.remove()


def parameter_gradients(step: Step) -> Float[Tensor, "t p"]:
    """Back-propagate each task's own gradient into its head, and return its gradients of shared parameters.

    The heads are passed twice in all, the network below the features once per task. A forward pass of F
    operations has a backward pass of 2 F: F for the gradients of activations, F for those of parameters. So a
    step takes F + 2 t F. Inner products alone do not save anything: those of gradients of parameters need
    these gradients, and those of activations, which every task has for itself, come before them. Several
    tasks in one batched pass take as many operations, and on a CPU 1.5 times as long. A method that works
    with gradients of the features, where the tasks part, takes 3 F.
    """
    count = sum(parameter.numel() for parameter in step.shared)
    gradients = step.losses.new_zeros(len(step.losses), count)
    *others, (last_row, last) = zip(gradients, feature_gradients(step), strict=True)
    for row, own in others:
        if step.shared:
            torch.autograd.backward(step.features, own, retain_graph=True, inputs=step.shared)
        _move_gradients(step, row)
    backward_features(step, last)
    _move_gradients(step, last_row)
    return gradients


def _move_gradients(step: Step, row: Float[Tensor, " p"]) -> None:
    """Move the gradients of the shared parameters to a row, where the ones that do not exist stay 0."""
    sizes = [parameter.numel() for parameter in step.shared]
    for part, parameter in zip(row.split(sizes), step.shared, strict=True):
        if parameter.grad is not None:
            part.copy_(parameter.grad.flatten())
            parameter.grad = None


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
