"""Virtual tokens, in float64: as if they were there, packed and cached."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models import transformer
from llm_jax.models.attention import Attention
from llm_jax.models.seeing import Context, Sight
from tests import small

X = 3
LENGTHS = (4, 6)
R = np.random.default_rng(0)
TOKENS = R.integers(0, small.DIMS.V, (1, sum(LENGTHS)), np.int32)
SEGMENT = np.repeat([1, 2], LENGTHS)[None].astype(np.int32)
PLACE = np.concatenate([np.arange(n) for n in LENGTHS])[None].astype(np.int32)
CUTS = (slice(0, LENGTHS[0]), slice(LENGTHS[0], sum(LENGTHS)))
SHAPES = ("llama", "gpt2")


def with_prompt(config):
  model, variables = small.build(config)
  prompt = R.normal(size=(X, small.DIMS.D))
  return model, variables, {"prompt": prompt}


def with_prefix(config):
  model, variables = small.build(config)
  shape = (config.num_layers, X, config.K, config.H)
  new = {f"prefix_{n}": R.normal(size=shape) for n in ("key", "value")}
  return model, variables, {"blocks": {"attention": new}}


@functools.cache
def compiled(model, method=None):
  return jax.jit(functools.partial(model.apply, method=method))


def activations(model, variables, *args, **kwargs):
  return np.asarray(compiled(model)(variables, *args, **kwargs))


def cached(model, variables):
  """Logits of the first document, a token at a time after the first two."""
  decode = compiled(model, "decode")
  cache = model.apply(variables, 1, 8, method="open_cache")
  ones, out = np.ones((1, LENGTHS[0]), np.int32), []
  for at in (slice(0, 2), slice(2, 3), slice(3, 4)):
    logits, cache = decode(
      variables, TOKENS[:, at], PLACE[:, at], ones[:, at], cache
    )
    out.append(logits[0])
  return np.stack(out)


def check_packed_and_cached(model, variables, adapters):
  """Each document as if alone; the cache as the full forward."""
  whole = variables | {"adapters": adapters}
  alone = [activations(model, whole, TOKENS[:, at]) for at in CUTS]
  packed = activations(
    model, whole, TOKENS, segment_BT=SEGMENT, position_BT=PLACE
  )
  for at, want in zip(CUTS, alone, strict=True):
    np.testing.assert_allclose(packed[:, at], want, atol=1e-11)
  # The mutant: one document seen by the next.
  blind = activations(
    model, whole, TOKENS, segment_BT=np.ones_like(SEGMENT), position_BT=PLACE
  )
  assert np.abs(blind[:, CUTS[1]] - alone[1]).max() > 1e-3
  head = np.asarray(variables["params"]["embedding"]).T
  want = (alone[0] @ head)[0, 1:]
  np.testing.assert_allclose(cached(model, whole), want, atol=1e-11)
  return alone


@pytest.mark.parametrize("shape", SHAPES)
def test_a_soft_prompt_is_embeddings_before_each_document(shape):
  with jax.enable_x64(True):
    model, variables, adapters = with_prompt(small.SHAPES[shape])
    alone = check_packed_and_cached(model, variables, adapters)
    # Naively: X more rows in the table, and their ids before each document.
    V = small.DIMS.V
    longer = dataclasses.replace(model.config, vocab_size=V + X)
    params = variables["params"]
    table = np.concatenate([params["embedding"], adapters["prompt"]])
    naive = {"params": params | {"embedding": table}}
    for at, got in zip(CUTS, alone, strict=True):
      ids = np.arange(V, V + X, dtype=np.int32)[None]
      tokens = np.concatenate([ids, TOKENS[:, at]], 1)
      want = activations(transformer.Decoder(longer), naive, tokens)[:, X:]
      np.testing.assert_allclose(got, want, atol=1e-11)
      # The mutant: without them.
      bare = activations(model, variables, TOKENS[:, at])
      assert np.abs(got - bare).max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prefix_stands_before_each_document(shape):
  with jax.enable_x64(True):
    check_packed_and_cached(*with_prefix(small.SHAPES[shape]))


def test_a_prefix_is_more_keys_and_values():
  """Attention, written out by loops."""
  config = dataclasses.replace(
    small.CONFIG, positions="none", num_kv_heads=0, dtype="float64"
  )
  N, H, D, T = config.num_heads, config.H, config.embed_dim, 5
  draw = lambda *shape: R.normal(size=shape)
  kernels = {n: draw(D, N, H) for n in ("query", "key", "value")}
  kernels["out"] = draw(N, H, D)
  prefix = {"prefix_key": draw(X, N, H), "prefix_value": draw(X, N, H)}
  x_TD = draw(T, D)
  with jax.enable_x64(True):
    got, _ = Attention(config).apply(
      {
        "params": {n: {"kernel": k} for n, k in kernels.items()},
        "adapters": prefix,
      },
      x_TD[None],
      Context(Sight(None, None)),
      jnp.zeros((), jnp.int32),
      None,
    )
  want = np.zeros((T, D))
  for n in range(N):
    q, k, v = (x_TD @ kernels[m][:, n] for m in ("query", "key", "value"))
    for t in range(T):
      keys = np.concatenate([prefix["prefix_key"][:, n], k[: t + 1]])
      values = np.concatenate([prefix["prefix_value"][:, n], v[: t + 1]])
      p = np.exp(keys @ q[t] / H**0.5)
      want[t] += p / p.sum() @ values @ kernels["out"][n]
  np.testing.assert_allclose(got[0], want, rtol=1e-9)
