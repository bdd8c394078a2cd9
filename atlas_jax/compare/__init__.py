"""Number-by-number comparison with PyTorch."""
