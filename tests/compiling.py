"""How programs are compiled: as users have them, or for TPUs."""

import contextlib
import importlib.util

import jax
import pytest

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


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
