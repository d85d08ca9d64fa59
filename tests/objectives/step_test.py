"""A pair is never parted, and microbatches never change the result."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.training import step as step_lib


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_cut_keeps_groups_and_paste_undoes_it(n, group):
  x = jnp.arange(24).reshape(24, 1)
  parts = step_lib.cut({"x": x}, n, group)
  groups = parts["x"].reshape(-1, group)
  assert (groups == groups[:, :1] + np.arange(group)).all()
  assert (groups[:, 0] % group == 0).all()
  chex.assert_trees_all_equal(step_lib.paste(parts, group), {"x": x})


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match="--batch_size=6: not divisible by 2"):
    step_lib.cut({"x": jnp.arange(6)}, 2, 2)


def test_groups_of_a_cut_batch_stay_on_their_device():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
  on = lambda *spec: jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(*spec)
  )
  x = jax.device_put(jnp.arange(128.0).reshape(32, 4), on("data"))

  def text(group):
    cut = lambda x: step_lib.cut({"x": x}, 2, group)["x"]
    out = on(None, "data")
    return jax.jit(cut, out_shardings=out).lower(x).compile().as_text()

  moves = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
  assert not any(m in text(2) for m in moves)
  assert any(m in text(16) for m in moves)  # larger than a device's share
