"""The learning curves of several networks are merged into one curve."""

from bench.engine.stages.learning_curve import merge_curves
from bench.record import Epoch


def epoch(task: str, loss: float | None, unanswered: int = 0) -> Epoch:
    point = Epoch(epoch=1, train_loss=loss, learning_rate=0.1, weights={task: None}, scores={task: {}})
    if unanswered:
        point["unanswered"] = unanswered
    return point


def test_steps_without_an_answer_add_up_over_networks() -> None:
    (merged,) = merge_curves([[epoch("left", 1.0, 3)], [epoch("right", 2.0)], [epoch("larger", 3.0, 4)]])
    assert merged["unanswered"] == 7
    assert merged["train_loss"] == 2.0
    assert merged["weights"] == {"left": None, "right": None, "larger": None}


def test_a_curve_in_which_every_step_has_an_answer_does_not_mention_it() -> None:
    (merged,) = merge_curves([[epoch("left", 1.0)], [epoch("right", None)]])
    assert "unanswered" not in merged
    assert merged["train_loss"] is None
