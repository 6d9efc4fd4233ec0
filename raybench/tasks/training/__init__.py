"""Parts of the training loop: augmentation, loss, optimizer, moving average, resuming."""
