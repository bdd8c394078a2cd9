"""Number-by-number comparison with PyTorch; comparison of searchers."""
