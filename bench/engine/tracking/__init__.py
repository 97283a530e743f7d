"""The MLflow mirror of the records."""
