"""How cost grows with size: the fit is that of a power law, and every axis can be measured."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench.cli import app
from bench.conformance import scaling
from bench.conformance.scaling import AXES_OF_COST, Scaling, measure_scaling


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_a_power_law_is_found(power: float) -> None:
    sizes = (1, 2, 4, 8)
    exponent, low, high = Scaling("images", sizes, tuple(3 * size**power for size in sizes)).exponent()
    assert (exponent, low, high) == pytest.approx((power, power, power))


def test_noise_makes_the_interval_wider() -> None:
    exponent, low, high = Scaling("images", (1, 2, 4, 8), (1, 2.5, 3.5, 9)).exponent()
    assert low < 1 < high
    assert low < exponent < high


@pytest.mark.parametrize("axis", AXES_OF_COST)
def test_every_axis_can_be_measured(axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "BATCH", 4)
    measured = measure_scaling(
        axis, {"pixels": (256,), "images": (8,)}.get(axis, (2,)), 1, torch.device("cpu")
    )
    assert measured.seconds[0] > 0


def test_the_command_prints_a_table_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(axis: str, sizes: tuple[int, ...], rounds: int, device: torch.device) -> Scaling:
        return Scaling(axis, sizes, tuple(size / 1000 for size in sizes))

    monkeypatch.setattr(scaling, "measure_scaling", measure)
    result = CliRunner().invoke(app, ["scaling", "--plot", str(tmp_path / "scaling.png")])
    assert result.exit_code == 0, result.output
    assert result.output.count("1.00 (1.00 to 1.00)") == len(AXES_OF_COST)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
