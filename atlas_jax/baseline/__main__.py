"""`python -m atlas_jax.baseline`: the PyTorch side, asked through line_process."""

from atlas_jax.baseline import worker

if __name__ == '__main__':
    worker.Side().serve()
