"""The report of `bench data` about a dataset."""
