"""`python -m atlas_jax.apps.compare.pytorch`: the PyTorch side, which answers through line_process.
"""

from atlas_jax.apps.compare.pytorch import worker

if __name__ == '__main__':
    worker.TorchSide().serve()
