"""Programs here run for a moment: they are compiled fast, not to be fast."""

import jax
import pytest

_FAST = "jax_disable_most_optimizations"


@pytest.fixture(autouse=True)
def compiled_fast():
  before = jax.config.values[_FAST]
  jax.config.update(_FAST, True)
  yield
  jax.config.update(_FAST, before)
