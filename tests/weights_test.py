"""The role "reference": the policy as it begins, and little memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import state_plan, trees, weights
from llm_jax.checkpoints.store import Store
from llm_jax.peft.method import Full
from tests.peft import furniture

# Method -> bytes of params that its reference needs for itself, of all.
OWN = {"full": 1.0, "norms": None, "lora": 0.0, "nf4": 0.0}


@pytest.fixture(autouse=True)
def with_full(monkeypatch):
  monkeypatch.setitem(furniture.METHODS, "full", (Full(), "same"))


def make(name):
  made = furniture.make(name)
  with jax.set_mesh(made.mesh):
    plan = state_plan.make(
      made.experiment, made.model, made.mesh, furniture.encode, reference=True
    )
  return made._replace(plan=plan)


@pytest.mark.parametrize("name", OWN)
def test_a_reference_stays_where_the_policy_began(name, tmp_path):
  with jax.enable_x64(True):
    made = make(name)
    state = furniture.start(made)
    kept = trees.num_bytes(state.frozen["reference"])
    whole = trees.num_bytes(state.roles["reference"])
    moving = trees.num_bytes(state.trainable["policy"].get("params", {}))
    assert kept == (moving if OWN[name] is None else OWN[name] * whole)
    assert not jax.tree.leaves(state.trainable["reference"])
    began = np.asarray(made.score(state.roles["policy"]))
    state = furniture.train(made, state, 2)
    reference = np.asarray(made.score(state.roles["reference"]))
    np.testing.assert_allclose(reference, began, rtol=1e-12, atol=1e-12)
    policy = made.score(state.roles["policy"])  # the mutant: the policy itself
    assert np.abs(policy - began).max() > 1e-3
    resumes_and_is_read_alone(made, state, reference, tmp_path)


def resumes_and_is_read_alone(made, state, reference, folder):
  store = Store(folder)
  with jax.set_mesh(made.mesh):
    base = weights.checksums(state.frozen)
    store.save(2, state_plan.saved(state), {"base": base})
    store.wait()
    alone = state_plan.make(
      made.experiment, made.model, made.mesh, furniture.encode
    )
    _, part = store.restore_part({"trainable": alone.abstract.trainable})
  found = furniture.resume(made, store)
  again = found[1].roles["reference"]
  np.testing.assert_array_equal(made.score(again), reference)
  # A policy is read from there without its reference.
  for path, x in trees.paths(part["trainable"]["policy"]):
    want = trees.get(state.trainable["policy"], path)
    np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_whatever_changes_in_a_base_changes_its_checksum(dtype):
  x = jnp.asarray(np.random.default_rng(0).integers(-9, 9, (4, 6)), dtype)
  changes = {
    "signs": -x,
    "two signs": x.at[0, :2].multiply(-1) + (x == 0),
    "order": x[::-1],
    "turned": x.reshape(6, 4).T,
    "one number": x.at[3, 5].add(1),
  }
  sums = {n: weights.checksums({"w": a})["w"] for n, a in changes.items()}
  sums["as it is"] = weights.checksums({"w": x})["w"]
  assert len(set(sums.values())) == len(sums), sums
