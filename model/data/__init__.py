"""From a dataset version to batches: order, windows, loader."""
