"""What `bench data` says about a dataset."""
