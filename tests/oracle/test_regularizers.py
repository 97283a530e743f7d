"""The regularizers of class embeddings against a case worked by hand and a slow double loop."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from mtlue.regularizers import embedding_regularizers


def test_a_case_worked_by_hand() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    second = torch.tensor([[-1.0, 0.0], [5.0, 5.0]])
    intra, inter = embedding_regularizers([first, second])
    half = math.sqrt(0.5)
    # Pairs of one task: 0, √½, √½ of the first and −√½ of the second; of two tasks, in absolute value:
    # (1, √½), (0, 1), (√½, 1).
    assert float(intra) == pytest.approx((0 + half + half - half) / 4)
    assert float(inter) == pytest.approx((1 + half + 0 + 1 * half + half + 1) / 6)


def by_double_loop(embeddings: list[Tensor]) -> tuple[float, float]:
    """Both regularizers, pair by pair in double precision."""

    def cosine(one: Tensor, other: Tensor) -> float:
        one, other = one.double(), other.double()
        return float(one @ other / (one.norm() * other.norm()))

    intra = [
        cosine(one, other) for rows in embeddings for one, other in itertools.combinations(rows.unbind(), 2)
    ]
    inter = [
        abs(cosine(one, other))
        for first, second in itertools.combinations(embeddings, 2)
        for one in first
        for other in second
    ]
    return tuple(sum(values) / len(values) if values else 0.0 for values in (intra, inter))  # type: ignore[return-value]


@pytest.mark.parametrize("classes", [(2,), (5,), (2, 2), (9, 5, 2), (2,) * 12, (3, 1), (1, 1), (1,)])
@pytest.mark.parametrize("width", [3, 50])
def test_both_are_the_means_over_pairs_of_a_double_loop(classes: tuple[int, ...], width: int) -> None:
    generator = torch.Generator().manual_seed(len(classes))
    embeddings = [3 * torch.randn(k, width, generator=generator) + 0.3 for k in classes]
    measured = [float(value) for value in embedding_regularizers(embeddings)]
    assert measured == pytest.approx(by_double_loop(embeddings), rel=1e-4, abs=1e-6)


def test_the_order_of_the_tasks_and_the_length_of_embeddings_do_not_matter() -> None:
    embeddings = [torch.randn(k, 10, generator=torch.Generator().manual_seed(k)) for k in (2, 3, 5)]
    scaled = [rows * (1 + torch.arange(len(rows))[:, None]) for rows in embeddings[::-1]]
    for one, other in zip(embedding_regularizers(embeddings), embedding_regularizers(scaled), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_making_them_small_tells_classes_apart_and_tasks_from_each_other() -> None:
    torch.manual_seed(0)
    embeddings = [(torch.randn(k, 20) + 1).requires_grad_(True) for k in (3, 4)]
    optimizer = torch.optim.Adam(embeddings, lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        intra, inter = embedding_regularizers(embeddings)
        (intra + inter).backward()
        optimizer.step()
    # The mean cosine of k vectors is at least −1/(k−1): here (3·(−1/2) + 6·(−1/3))/9 is the least.
    intra, inter = embedding_regularizers(embeddings)
    assert intra.item() == pytest.approx(-3.5 / 9, abs=0.02)
    assert inter.item() < 0.05
