"""The training loop's parts: augmentation, loss, optimizer, resumption."""
