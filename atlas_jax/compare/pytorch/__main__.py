"""`python -m atlas_jax.compare.pytorch`: the PyTorch side, asked through line_process."""

from atlas_jax.compare.pytorch import worker

if __name__ == '__main__':
    worker.Side().serve()
