"""A mixture of experts is a loop over tokens and their experts, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models.config import Experts, TransformerConfig
from llm_jax.models.experts import Mixture
from llm_jax.ops import routing

B, T, D, F, M = 2, 4, 6, 5, 4
CONFIG = TransformerConfig(
  num_layers=1,
  embed_dim=D,
  mlp_dim=F,
  num_heads=1,
  dtype="float64",
  experts=Experts(num=M, per_token=2),
)
KINDS = [("swiglu", 2, True), ("geglu", 3, False), ("relu2", 1, False)]
ACTIVATIONS = {
  "swiglu": lambda gate, up: gate / (1 + jnp.exp(-gate)) * up,
  "geglu": lambda gate, up: jax.nn.gelu(gate) * up,
  "relu2": lambda _, up: jnp.where(up > 0, up, 0) ** 2,
}


def of(activation, per_token, normalise):
  experts = Experts(num=M, per_token=per_token, normalise=normalise)
  return dataclasses.replace(CONFIG, activation=activation, experts=experts)


def drawn(config, skew=0.0):
  """(x, params); `skew` draws all tokens to the third expert."""
  r = np.random.default_rng(0)
  x = r.normal(size=(B, T, D))
  x[..., 0] = 1.0
  router = r.normal(size=(D, M))
  router[0, 2] += skew
  kernels = {"up": (M, D, F), "down": (M, F, D)}
  if config.activation != "relu2":
    kernels["gate"] = (M, D, F)
  params = {n: {"kernel": r.normal(size=s)} for n, s in kernels.items()}
  return jax.tree.map(jnp.asarray, (x, params | {"router": router}))


def naive(config, x, params, drops=()):
  """Token by token; of the choices in `drops` nothing comes."""
  e = config.experts
  chosen = np.argsort(-(x @ params["router"]), -1)[..., : e.per_token]
  drops = set(drops)

  def run(x, params):
    rows = []
    for b, t in np.ndindex(B, T):
      logits = x[b, t] @ params["router"]
      p, y = jnp.exp(logits) / jnp.exp(logits).sum(), jnp.zeros(D)
      whole = p[chosen[b, t]].sum() if e.normalise else 1.0
      for m in chosen[b, t]:
        if (b, t, int(m)) in drops:
          continue
        up = x[b, t] @ params["up"]["kernel"][m]
        gate = x[b, t] @ params["gate"]["kernel"][m] if "gate" in params else up
        h = ACTIVATIONS[config.activation](gate, up)
        y += p[m] / whole * (h @ params["down"]["kernel"][m])
      rows.append(y)
    return jnp.stack(rows).reshape(B, T, D)

  return run, chosen


def mixture(config):
  return lambda x, params: Mixture(config).apply({"params": params}, x, None)[0]


def found(run, x, params):
  """Output, and gradients in x and in every parameter."""
  g = np.random.default_rng(1).normal(size=x.shape)
  out, pull = jax.vjp(run, x, params)
  return jax.tree.leaves((out, pull(g)))


def difference(a, b):
  return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_a_loop_over_tokens_and_experts(kind):
  config = of(*kind)
  with jax.enable_x64(True):
    x, params = drawn(config)
    want = found(naive(config, x, params)[0], x, params)
    got = jax.jit(lambda x, p: found(mixture(config), x, p))(x, params)
  assert difference(got, want) < 1e-12


def test_mutants_are_caught(monkeypatch):
  """Weights that do not sum to 1, as though they did; a router that learns
  nothing."""
  config = of("swiglu", 2, True)
  choose = routing.choose
  with jax.enable_x64(True):
    x, params = drawn(config)
    want = found(naive(config, x, params)[0], x, params)
    raw = mixture(of("swiglu", 2, False))
    assert difference(found(raw, x, params)[:1], want[:1]) > 0.1

    def fixed(*given):
      weight_BTC, choice_BTC = choose(*given)
      return jax.lax.stop_gradient(weight_BTC), choice_BTC

    monkeypatch.setattr(routing, "choose", fixed)
    got = found(mixture(config), x, params)
  assert difference(got[:1], want[:1]) < 1e-12
  assert difference(got[1:], want[1:]) > 0.1


@pytest.mark.parametrize("per_token", [1, 2])
def test_no_token_is_dropped_though_all_go_to_one_expert(per_token):
  config = of("swiglu", per_token, True)
  with jax.enable_x64(True):
    x, params = drawn(config, skew=50.0)
    run, chosen = naive(config, x, params)
    assert (chosen[..., 0] == 2).all()
    want = found(run, x, params)
    got = found(mixture(config), x, params)
    _, told = Mixture(config).apply({"params": params}, x, None)
    # The mutant: a capacity of twice an even share, the rest is dropped.
    rest = list(np.ndindex(B, T))[2 * B * T // M :]
    dropping, _ = naive(config, x, params, [(b, t, 2) for b, t in rest])
    dropped = found(dropping, x, params)
  assert difference(got, want) < 1e-12
  assert difference(dropped, want) > 0.1
  told = jax.tree.map(np.asarray, told)
  assert (told.load_LBM[:, 2] == T).all()
  assert told.load_LBM.sum() == B * T * per_token
  if per_token == 1:
    np.testing.assert_allclose(told.balance_LB, M)


def test_settings_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match="per_token=3: there are .*num=2"):
    TransformerConfig(experts=Experts(num=2, per_token=3))
  with pytest.raises(ValueError, match="mlp_bias=True: experts have no"):
    TransformerConfig(experts=Experts(num=2), mlp_bias=True)
  with pytest.raises(ValueError, match="per_token=3: nothing reads it"):
    TransformerConfig(experts=Experts(num=0, per_token=3))
