"""mtlue-bench: the benchmark of unlearnable examples for multi-task learning."""

__version__ = "0.1.0"
