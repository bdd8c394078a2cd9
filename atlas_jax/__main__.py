"""`python -m atlas_jax` is the command `atlas-jax`."""

import sys

from atlas_jax.apps.cli import main as cli

if __name__ == '__main__':
    sys.exit(cli.main())
