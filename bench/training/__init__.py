"""The training loop, its loaders, the network and the augmentation."""
