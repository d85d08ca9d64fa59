"""A reference that is refreshed: by its formula, exactly and only when due.

Dimension key: V tokens; B rows; T = 1.
"""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import planning, state_plan, trees, weights
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Scores
from llm_jax.objectives.dpo import DPO
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from llm_jax.training.refresh import Refresh
from tests.peft import furniture

V, B, STEPS, RATE, BETA = 5, 16, 6, 2.0, 0.7


def score(variables, batch, *, key=None):
  """A model of one number a token."""
  del key
  logp_V = jax.nn.log_softmax(variables["w_V"])
  logp_BT = logp_V[batch["target_BT"]]
  return Scores(logp_BT, jnp.zeros_like(logp_BT))


def batch(seed):
  r = np.random.default_rng(seed)
  return {
    "target_BT": r.integers(0, V, (B, 1)).astype(np.int32),
    "mask_BT": np.ones((B, 1), bool),
  }


def start():
  w_V = jnp.asarray(np.random.default_rng(9).normal(size=V))
  return state_lib.create(
    {"policy": {"w_V": w_V}},
    lambda path: True,
    optax.sgd(RATE),
    jax.random.key(0),
    refreshed=True,
  )


def stepper(refresh, microbatches=1):
  return jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=DPO(beta=BETA),
      forward={"policy": score, "reference": score},
      optimizer=optax.sgd(RATE),
      microbatches=microbatches,
      refresh=refresh,
    ),
    donate_argnums=0,
  )


def run(refresh, microbatches=1, batches=None):
  """References and policies after each step."""
  step, state, out = stepper(refresh, microbatches), start(), []
  for b in batches or map(batch, range(STEPS)):
    state, _ = step(state, b)
    roles = jax.device_get(state.roles)
    out.append((roles["reference"]["w_V"], roles["policy"]["w_V"]))
  return np.array(out)


def gradient(w_V, reference_V, target_Q2):
  """Of DPO's mean loss, by hand: -beta sigmoid(-beta m) d m / d w."""
  p, q = (np.log(np.exp(x) / np.exp(x).sum()) for x in (w_V, reference_V))
  total = np.zeros(V)
  for w, l in target_Q2:
    margin = (p[w] - q[w]) - (p[l] - q[l])
    slope = -BETA / (1 + np.exp(BETA * margin)) / len(target_Q2)
    total += slope * (np.eye(V)[w] - np.eye(V)[l])
  return total


def naive(refresh, mutant=""):
  w_V = np.asarray(start().roles["policy"]["w_V"])
  reference_V, out = w_V.copy(), []
  for i in range(1, STEPS + 1):
    before_V = w_V
    w_V = w_V - RATE * gradient(
      w_V, reference_V, batch(i - 1)["target_BT"].reshape(-1, 2)
    )
    source_V = before_V if mutant == "before the update" else w_V
    at = i - 1 if mutant == "one step late" else i
    if at and at % refresh.every == 0:
      mix = 1 - refresh.mix if mutant == "mixed the other way" else refresh.mix
      reference_V = mix * source_V + (1 - mix) * reference_V
    out.append((reference_V, w_V))
  return np.array(out)


REFRESHES = {
  "hard": Refresh(every=3),
  "soft": Refresh(every=1, mix=0.6),
  "both": Refresh(every=2, mix=0.3),
}


@pytest.mark.parametrize("name", REFRESHES)
def test_it_is_the_naive_loop(name):
  refresh = REFRESHES[name]
  with jax.enable_x64(True):
    found = run(refresh)
    np.testing.assert_allclose(found, naive(refresh), rtol=0, atol=1e-12)
    for mutant in ("before the update", "one step late", "mixed the other way"):
      # Of a hard refresh the other way round none is left.
      assert np.abs(naive(refresh, mutant) - found).max() > 1e-3, mutant


def test_microbatches_and_devices_never_change_it():
  refresh = REFRESHES["both"]
  mesh = mesh_lib.make(mesh_lib.MeshShape())
  with jax.enable_x64(True):
    want = run(refresh)
    np.testing.assert_allclose(run(refresh, 2), want, rtol=0, atol=1e-12)
    with jax.set_mesh(mesh):
      placed = [mesh_lib.place(batch(i), mesh) for i in range(STEPS)]
      cut = run(refresh, batches=placed)
    assert len(placed[0]["target_BT"].sharding.device_set) == 8
    np.testing.assert_allclose(cut, want, rtol=0, atol=1e-12)


def test_a_skipped_step_neither_refreshes_nor_counts():
  good = [batch(i) for i in range(4)]
  bad = good[1] | {"ref_logp_B": np.full(B, np.nan)}
  none = {"ref_logp_B": np.zeros(B)}  # the same columns in every batch
  given = [b | none for b in good]
  with jax.enable_x64(True):
    for refresh in (Refresh(every=2), Refresh(every=2, mix=0.5)):
      without = run(refresh, batches=given)
      found = run(
        refresh, batches=[*given[:1], bad, *given[1:2], bad, *given[2:]]
      )
      np.testing.assert_array_equal(found[[0, 2, 4, 5]], without)
      # Just before and just after a refresh, when it would be due by number.
      np.testing.assert_array_equal(found[1], found[0])
      np.testing.assert_array_equal(found[3], found[2])
      assert (found[2, 0] != found[1, 0]).any()


def test_every_buffer_of_a_donated_state_is_used_again():
  state = start()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    stepper(Refresh(every=2))(state, batch(0))
  assert all(x.is_deleted() for x in jax.tree.leaves(state))


def make(name, mesh):
  made = furniture.make(name, "dpo", mesh)
  experiment = dataclasses.replace(made.experiment, refresh=Refresh(2, 0.5))
  with jax.set_mesh(made.mesh):
    plan = state_plan.make(
      experiment, made.model, made.mesh, furniture.encode, reference=True
    )
  return made._replace(experiment=experiment, plan=plan)


@pytest.mark.parametrize("name", ["lora", "last_layer"])
def test_it_is_a_copy_of_what_trains_and_lies_where_that_does(name):
  with jax.enable_x64(True):
    made = make(name, "8")
    abstract = made.plan.abstract
    trains, kept = abstract.trainable["policy"], abstract.reference
    assert trees.size(trains) and "reference" not in abstract.frozen
    assert kept == trains  # in structure, shapes and shardings
    assert any(
      not x.sharding.is_fully_replicated for x in jax.tree.leaves(kept)
    )
    roles = jax.eval_shape(lambda s: s.roles, abstract)
    assert roles["reference"] == roles["policy"]
    told = planning.describe(
      made.experiment, made.model.shape, abstract, dict(made.mesh.shape), "cpu"
    )
    told = dict(told["rows"])
    # One number for each that trains, as gradients have.
    kept, slopes = (
      told[f"bytes a device: {n}"] for n in ("reference", "gradients")
    )
    assert kept == slopes != "0.0 B"


def test_beside_a_base_it_moves_and_goes_on_where_it_was(tmp_path):
  """LoRA, stopped between two refreshes."""
  with jax.enable_x64(True):
    made = make("lora", "1")
    state = furniture.start(made)
    began = furniture.numbers(state.reference)
    state = furniture.train(made, state, 1)
    same(state.reference, began)
    store = Store(tmp_path)
    with jax.set_mesh(made.mesh):
      sums = weights.checksums(state.frozen)
      store.save(1, state_plan.saved(state), {"base": sums})
      store.wait()
    state = furniture.train(made, state, 1)
    now = furniture.numbers(state.trainable["policy"])
    for path, x in furniture.numbers(state.reference).items():
      want = 0.5 * now[path] + 0.5 * began[path]
      np.testing.assert_allclose(x, want, rtol=0, atol=1e-15)
    state = furniture.train(made, state, 1)
    whole = state.roles["reference"]
    base = {k: v for k, v in whole.items() if k != "adapters"}
    assert np.abs(made.score(whole) - made.score(base)).max() > 1e-4
    _, again, _ = furniture.resume(made, store)
    # The mutant: a reference that begins anew with the policy of then.
    policy = jax.tree.map(jnp.copy, again.trainable["policy"])
    mutant = jax.tree.map(
      jnp.copy, dataclasses.replace(again, reference=policy)
    )
    again = furniture.train(made, again, 2)
    same(again.reference, furniture.numbers(state.reference))
    same(again.trainable, furniture.numbers(state.trainable))
    mutant = furniture.train(made, mutant, 2)
    with pytest.raises(AssertionError):
      same(mutant.trainable, furniture.numbers(state.trainable))


def same(tree, wanted):
  found = furniture.numbers(tree)
  assert found.keys() == wanted.keys()
  for path, x in wanted.items():
    np.testing.assert_array_equal(found[path], x, err_msg=path)
