"""The command `atlas-jax`, one module a command."""
