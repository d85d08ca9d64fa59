"""Programs as users have them, where a test speaks of their last bits."""

import contextlib

import jax


@contextlib.contextmanager
def optimised():
  """What is compiled meanwhile is optimised; see conftest.py."""
  name = "jax_disable_most_optimizations"
  before = jax.config.read(name)
  jax.config.update(name, False)
  if before:
    jax.clear_caches()  # which do not know by what they were compiled
  try:
    yield
  finally:
    jax.config.update(name, before)
