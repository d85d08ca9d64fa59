"""Every method, under every objective, on one device and on eight.

One test for each, with all laws in turn, so that each step compiles once.
"""

import contextlib

import jax
import numpy as np
import pytest

from llm_jax import state_plan, trees, weights
from llm_jax.checkpoints.store import Store
from llm_jax.peft.merge import merge
from llm_jax.peft.method import CONSTANTS
from tests import compiling
from tests.peft import furniture

# Virtual tokens are more context, whatever they are: no base says the same.
NEVER_THE_BASE = ("prompt", "prefix")
# No change of a weight that the base has either.
UNMERGEABLE = ("houlsby", "pfeiffer", "bitfit")


def begins_at_the_base(name, made, policy):
  base = {k: v for k, v in policy.items() if k != "adapters"}
  want, got = made.score(base), made.score(policy)
  if name.startswith(NEVER_THE_BASE):
    assert np.abs(got - want).max() > 1e-4
  elif name in (
    "dora",
    "lstm",
    "special_untied",  # whose keys are scaled, then normed: fused otherwise
  ):  # divides a norm by itself, summed in another order
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
  else:
    np.testing.assert_array_equal(got, want)
  if "adapters" in policy:  # else this would hold of adapters never read
    assert np.abs(made.score(moved(policy)) - want).max() > 1e-3


def optimizes_only_what_trains(state):
  moments = [
    x
    for _, x in trees.paths(state.opt_state)
    if x.ndim or x.dtype == np.float64
  ]
  assert trees.num_bytes(moments) == 2 * trees.num_bytes(state.trainable)


def all_of_an_adapter_trains(state):
  """But for its constants: a mutant with one frozen leaf more fails here."""
  frozen = state.frozen["policy"].get("adapters", {})
  held = [p for p, x in trees.paths(frozen) if x is not None and x.size]
  assert all(p.split("/")[-1] in CONSTANTS for p in held), held


def only_what_trains_has_moved(name, before, after):
  assert before.keys() == after.keys()
  still = [p for p in after if np.array_equal(before[p], after[p])]
  assert not still, still


def moved(policy):
  """A policy whose adapters are not what they begin as."""
  if "adapters" not in policy:
    return policy
  return policy | {"adapters": furniture.drawn(policy["adapters"])}


def looped_is_unrolled(made, policy):
  np.testing.assert_allclose(
    made.score(policy), made.score(policy, unroll=0), rtol=0, atol=1e-10
  )


def merged_is_unmerged(name, made, policy):
  adapters = policy.get("adapters", {})
  seen = state_plan.seen(made.plan, policy)
  if name in UNMERGEABLE or name.startswith(NEVER_THE_BASE):
    with pytest.raises(ValueError, match="cannot be merged"):
      merge(seen, adapters, made.plan.suffixes)
    return
  fold = jax.jit(
    lambda p, a: merge(p, a, made.plan.suffixes),
    out_shardings=jax.tree.map(lambda x: x.sharding, made.plan.base),
  )
  want, got = made.score(policy), made.score({"params": fold(seen, adapters)})
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
  if adapters:  # the mutant: the base as it was
    assert np.abs(made.score({"params": seen}) - want).max() > 1e-3


def resumes_bitwise(made, state, folder):
  """Saved alone, put back on the base, and gone on with: the same bits."""
  kept = state_plan.saved(state)
  assert trees.size(kept.trainable) == trees.size(state.trainable)
  assert not jax.tree.leaves(kept.frozen)
  store = Store(folder)
  base = weights.checksums(state.frozen)
  store.save(2, kept, {"base": base})
  store.wait()
  found = furniture.resume(made, store)
  assert found is not None
  step, again, _ = found
  assert step == 2
  there, here = furniture.numbers(again.roles), furniture.numbers(state.roles)
  assert there.keys() == here.keys()
  assert all(np.array_equal(there[p], here[p]) for p in here)
  np.testing.assert_array_equal(
    made.score(again.roles["policy"]), made.score(state.roles["policy"])
  )
  a = furniture.train(made, again, 1)
  b = furniture.train(made, state, 1)
  for x, y in zip(
    jax.tree.leaves(a.trainable), jax.tree.leaves(b.trainable), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("mesh", furniture.MESHES)
@pytest.mark.parametrize(("name", "objective"), furniture.MATRIX)
def test_laws(name, objective, mesh, tmp_path):
  # Eight devices, cut over fsdp and tensor too, keep nothing for the backward
  # pass; and leave what one device that keeps all of it leaves.
  shape = {} if mesh == "1" else {"remat": "full"}
  with jax.enable_x64(True):
    made = furniture.make(name, objective, mesh, **shape)
  with jax.enable_x64(True), jax.set_mesh(made.mesh):
    state = furniture.start(made)
    exact = compiling.optimised() if mesh == "1" else contextlib.nullcontext()
    with exact:  # to the last bit
      begins_at_the_base(name, made, state.roles["policy"])
    optimizes_only_what_trains(state)
    all_of_an_adapter_trains(state)
    frozen = furniture.numbers(state.frozen)
    before = furniture.numbers(state.trainable)
    state = furniture.train(made, state, 2)
    after = furniture.numbers(state.trainable)
    still = furniture.numbers(state.frozen)
    assert all(np.array_equal(still[p], frozen[p]) for p in frozen)
    only_what_trains_has_moved(name, before, after)
    if mesh != "1":
      want = furniture.trained_on_one_device(name, objective)
      assert after.keys() == want.keys()
      for path, x in after.items():
        np.testing.assert_allclose(x, want[path], atol=1e-10, err_msg=path)
    policy = moved(state.roles["policy"])
    if mesh == "1":
      looped_is_unrolled(made, policy)
    merged_is_unmerged(name, made, policy)
    resumes_bitwise(made, state, tmp_path)
