"""Loss, perplexity, bits per byte and accuracy, against plain numpy."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evaluation import likelihood
from llm_jax.models import transformer
from llm_jax.sharding import mesh as mesh_lib
from tests import small

BYTES = np.arange(16) % 5  # of each id
ROWS = 16


def split(rows=ROWS):
  """Rows of a held-out split, as one batch."""
  parts = [small.causal_batch(seed) for seed in range(2)]
  both = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
  return {k: v[:rows] for k, v in both.items()}


def batches(whole, size):
  """Batches of one shape; rows added at the end are copies without mask."""
  for start in range(0, len(whole["mask_BT"]), size):
    batch = {k: v[start : start + size] for k, v in whole.items()}
    short = size - len(batch["mask_BT"])
    if short:
      fill = lambda v, n=short: np.concatenate([v, np.repeat(v[-1:], n, 0)])
      batch = {k: fill(v) for k, v in batch.items()}
      batch["mask_BT"][size - short :] = False
    yield batch


@functools.cache
def furniture():
  return small.build()


@functools.cache
def compiled():
  model, _ = furniture()
  score = small.score_fn(model)
  return jax.jit(lambda v, b: likelihood.totals(score, v, b, BYTES))


def measure(whole, size, total_of=None):
  _, variables = furniture()
  return likelihood.evaluate(
    total_of or compiled(), variables, batches(whole, size)
  )


def direct(whole):
  """The measures by a loop over tokens."""
  model, variables = furniture()
  x = jax.jit(model.apply)(variables, whole["tokens_BT"])
  logits = np.asarray(x @ variables["params"]["embedding"].T)
  nats = hits = tokens = size = 0
  for b, t in zip(*np.nonzero(whole["mask_BT"]), strict=True):
    l, target = logits[b, t], whole["target_BT"][b, t]
    nats += math.log(np.exp(l - l[target]).sum())
    hits += int(l.argmax() == target)
    tokens, size = tokens + 1, size + int(BYTES[target])
  return {
    "loss": nats / tokens,
    "perplexity": math.exp(nats / tokens),
    "bits_per_byte": nats / math.log(2) / size,
    "token_accuracy": hits / tokens,
    "tokens": tokens,
  }


def assert_same(got, want, rtol=1e-12):
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol, err_msg=name)


@pytest.mark.parametrize("size", [1, 8, 7, 5, 16])
def test_measures_are_the_direct_ones_for_any_batch_size(size):
  with jax.enable_x64(True):
    whole = split(14)
    want = direct(whole)
    assert_same(measure(whole, size), want)
    assert 0 < want["token_accuracy"] < 1


def test_a_mean_over_batches_and_padding_counted_are_caught():
  """Mutants: each batch's mean averaged; masks forgotten."""
  with jax.enable_x64(True):
    whole = split(14)
    want = direct(whole)
    of_each = [
      measure({k: v[i : i + 5] for k, v in whole.items()}, 5)["loss"]
      for i in range(0, 14, 5)
    ]
    assert abs(np.mean(of_each) - want["loss"]) > 1e-3
    unmasked = dict(whole, mask_BT=np.ones_like(whole["mask_BT"]))
    assert abs(measure(unmasked, 8)["loss"] - want["loss"]) > 1e-3


def test_what_is_masked_may_be_anything():
  """Ids outside the vocabulary and infinite scores, where nothing counts."""
  with jax.enable_x64(True):
    whole = split(8)
    odd = dict(
      whole, target_BT=np.where(whole["mask_BT"], whole["target_BT"], -1)
    )
    assert_same(measure(odd, 8), measure(whole, 8), 0)
    model, variables = furniture()
    score = small.score_fn(model)

    def broken(variables, batch, **kwargs):
      scores = score(variables, batch, **kwargs)
      logp_BT = jnp.where(batch["mask_BT"], scores.logp_BT, -jnp.inf)
      return scores._replace(logp_BT=logp_BT)

    total_of = jax.jit(lambda v, b: likelihood.totals(broken, v, b, BYTES))
    assert_same(measure(whole, 8, total_of), measure(whole, 8), 0)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_eight_devices_measure_what_one_does(sizes):
  with jax.enable_x64(True):
    whole, (_, variables) = split(), furniture()
    want = measure(whole, 8)
    mesh = mesh_lib.make(mesh_lib.MeshShape(*sizes))
    config = dataclasses.replace(small.CONFIG, dtype="float64")
    score = small.score_fn(transformer.Decoder(config))
    with jax.set_mesh(mesh):
      total_of = jax.jit(lambda v, b: likelihood.totals(score, v, b, BYTES))
      placed = (mesh_lib.place(b, mesh) for b in batches(whole, 8))
      got = likelihood.evaluate(total_of, variables, placed)
  assert_same(got, want)


def test_the_measures_by_hand():
  got = likelihood.summary(nats=12.0, hits=3, tokens=4, num_bytes=6)
  want = {
    "loss": 3.0,
    "perplexity": math.exp(3),
    "bits_per_byte": 2 / math.log(2),
    "token_accuracy": 0.75,
    "tokens": 4,
  }
  assert_same(got, want)
  # One bit a byte: a fair coin told 8 times.
  coin = likelihood.summary(8 * math.log(2), 0, 2, 8)
  np.testing.assert_allclose(coin["bits_per_byte"], 1)


def test_totals_add_up_beyond_float32():
  """2^24 + 1 tokens and more; float32 would stop counting."""
  part = {"nats": np.float32(0.25), "hits": 1, "tokens": 2**24, "bytes": 1}
  one = {"nats": np.float32(0.25), "hits": 0, "tokens": 1, "bytes": 0}
  got = likelihood.evaluate(lambda v, b: b, None, [part, one])
  assert got["tokens"] == 2**24 + 1
  assert np.float32(2**24) + np.float32(1) == 2**24  # the mutant


def test_nothing_to_measure_is_one_clear_line():
  with jax.enable_x64(True):
    whole = split(8)
    whole["mask_BT"] = np.zeros_like(whole["mask_BT"])
    with pytest.raises(ValueError, match="no token to evaluate on"):
      measure(whole, 8)
