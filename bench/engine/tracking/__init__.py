"""What shows the records elsewhere: MLflow, TensorBoard or W&B."""
