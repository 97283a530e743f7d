"""How many images went through networks while a poison was crafted: its cost, whatever the machine."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from bench.api import Checkpoint


class PassCounter:
    """Counts images that pass through networks, forward and backward, and those of surrogates in training.

    Attributes:
        images: ``forward`` and ``backward``: through networks that stay as they are, or that make the noise;
            ``surrogate``: both directions, through surrogates that are trained along with the noise.
    """

    def __init__(self) -> None:
        self.images = {"forward": 0, "backward": 0, "surrogate": 0}

    def count(self, output: Tensor, is_training: bool = False) -> None:
        """Count the images of a batch, and again if their output is differentiated."""
        self._add("surrogate" if is_training else "forward", len(output))
        if output.requires_grad:
            direction, number = "surrogate" if is_training else "backward", len(output)
            output.register_hook(lambda _: self._add(direction, number))

    def _add(self, what: str, number: int) -> None:
        self.images[what] += number

    def __deepcopy__(self, memo: object) -> "PassCounter":
        """Return itself: a copy of a network has the same counter."""
        return self

    def per_image(self, count: int, training_epochs: int) -> dict[str, float]:
        """Return the passes per training image, under the names of the noise report.

        Args:
            count: number of training images.
            training_epochs: passes, in both directions, of a surrogate that was trained before.
        """
        means = {f"{what}_passes": number / count for what, number in self.images.items()}
        return {**means, "surrogate_passes": means["surrogate_passes"] + 2 * training_epochs}


class CountingCheckpoint:
    """A checkpoint that keeps what was counted so far beside the attack's own state."""

    def __init__(self, checkpoint: Checkpoint, counter: PassCounter) -> None:
        self._checkpoint, self._counter = checkpoint, counter

    def load(self) -> dict[str, Any] | None:
        """Return the attack's state, and count on from what was counted before it."""
        state = self._checkpoint.load()
        if state is None:
            return None
        self._counter.images = dict(state["passes"])
        return dict(state["crafting"])

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save the attack's state."""
        self._checkpoint.save(lambda: {"passes": dict(self._counter.images), "crafting": state()})
