"""A mixture of experts: of several feed-forwards, each token takes a few.

Dimension key: B sequences; T positions; D residual; F feed-forward width; M
experts; C experts of a token; J tokens of a device; P = J C choices; Q choices
of a device's own experts, at most.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from llm_jax import axes
from llm_jax.models.config import TransformerConfig
from llm_jax.models.linear import stored
from llm_jax.models.mlp import activate
from llm_jax.ops import grouped, routing
from llm_jax.ops.routing import Routing


class Kernel(nn.Module):
  """A matrix for each expert."""

  shape: str
  sizes: tuple[int, ...]
  std: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self) -> jax.Array:
    return stored(self, self.shape, self.sizes)


class Mixture(nn.Module):
  """sum_c weight_c down_c(act(gate_c x) * up_c x) over a token's experts.

  Shazeer et al. 2017, arXiv:1701.06538, eq. 1; the router, in float32 or wider,
  is `ops/routing`. No expert has a capacity and no token is dropped: choices
  are sorted by expert, and each expert multiplies what it got (MegaBlocks,
  arXiv:2211.15841).

  Over E devices of the mesh axis `expert` each holds M / E of the experts. It
  gathers the tokens of all E, computes its own experts' share for them, and the
  shares are summed where the tokens came from. A device receives and sends
  (E - 1) J D numbers each way, whatever the routing; the same again backward.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array, real_BT: jax.Array | None
  ) -> tuple[jax.Array, Routing]:
    c, dtype = self.config, jnp.dtype(self.config.dtype)
    e = c.experts
    normal = nn.initializers.normal(c.init_std)
    router_DM = self.param(
      "router", axes.init(normal, "DM"), (c.embed_dim, e.num)
    )
    wide = jnp.promote_types(dtype, jnp.float32)
    logits_BTM = jnp.matmul(
      x_BTD.astype(wide), router_DM.astype(wide), precision="highest"
    )
    logits_BTM = axes.constrain(logits_BTM, "BT_")
    if real_BT is None:
      real_BT = jnp.ones(x_BTD.shape[:2], bool)
    weight_BTC, choice_BTC = routing.choose(
      logits_BTM, e.per_token, e.normalise
    )
    gated = c.gated
    names = ("gate", "up", "down") if gated else ("up", "down")
    sizes = {"M": e.num, "D": c.embed_dim, "F": c.mlp_dim}
    kernels = {}
    for name in names:
      shape = tuple(sizes[letter] for letter in _suffix(name))
      std = c.init_std
      if name == "down":
        std /= (2 * c.num_layers) ** 0.5
      kernels[name] = Kernel(_suffix(name), shape, std, dtype, name=name)()
    y_BTD = _over_mesh(x_BTD, weight_BTC, choice_BTC, kernels, c.activation)
    return y_BTD, routing.tell(logits_BTM, choice_BTC, real_BT)


class Cuts(NamedTuple):
  """The mesh axes that cut what a device is given, in some of its dims."""

  rows: tuple[str, ...] = ()
  tokens: tuple[str, ...] = ()  # rows and positions
  experts: tuple[str, ...] = ()
  embed: tuple[str, ...] = ()
  inner: tuple[str, ...] = ()


def _over_mesh(
  x_BTD: jax.Array,
  weight_BTC: jax.Array,
  choice_BTC: jax.Array,
  kernels: dict[str, jax.Array],
  activation: str,
) -> jax.Array:
  """`_mixed` on each device of the mesh, for the experts that it holds."""
  mesh = jax.sharding.get_abstract_mesh()
  kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
  free = {name for name, kind in kinds if kind == AxisType.Auto}
  # What was cut outside of here is not cut once more.
  sizes = {name: mesh.shape[name] for name in free}
  if all(size == 1 for size in sizes.values()):
    return _mixed(x_BTD, weight_BTC, choice_BTC, kernels, activation, Cuts())

  def names(suffix: str, kind: axes.Kind, shape: tuple) -> list[tuple]:
    spec = axes.spec(suffix, kind, shape, sizes)
    return [n if isinstance(n, tuple) else (n,) * bool(n) for n in spec]

  tokens = names("BTD", "activation", x_BTD.shape)
  experts, inner, embed = names("MFD", "weight", kernels["down"].shape)
  # Only a device with rows of its own need gather kernels by itself.
  embed = tuple(name for name in embed if name in tokens[0])
  by = {"M": experts, "F": inner, "D": embed}
  place = lambda suffix: PartitionSpec(*(by[letter] for letter in suffix))
  where = {name: place(_suffix(name)) for name in kernels}
  cuts = Cuts(tokens[0], sum(tokens, ()), experts, embed, inner)
  given = PartitionSpec(*tokens)
  y_BTD: jax.Array = jax.shard_map(
    functools.partial(_mixed, activation=activation, cuts=cuts),
    in_specs=(given, given, given, where),
    out_specs=given,
    axis_names=free,
  )(x_BTD, weight_BTC, choice_BTC, kernels)
  return y_BTD


def _mixed(
  x_BTD: jax.Array,
  weight_BTC: jax.Array,
  choice_BTC: jax.Array,
  kernels: dict[str, jax.Array],
  activation: str,
  cuts: Cuts,
) -> jax.Array:
  """The mixture for a device's tokens, which all who share experts work out."""
  everywhere = {*cuts.tokens, *cuts.experts, *cuts.inner}
  own = {*cuts.experts, *cuts.inner, *cuts.embed}
  x_BTD, weight_BTC, choice_BTC = _varying(
    (x_BTD, weight_BTC, choice_BTC), everywhere - {*cuts.tokens}
  )
  kernels = _varying(kernels, everywhere - own)
  shared = tuple(name for name in cuts.experts if name in cuts.rows)
  for name in shared:
    x_BTD, weight_BTC, choice_BTC = (
      jax.lax.all_gather(a, name, tiled=True)
      for a in (x_BTD, weight_BTC, choice_BTC)
    )
  for name in cuts.embed:
    kernels = {
      its: jax.lax.all_gather(k, name, axis=_suffix(its).index("D"), tiled=True)
      for its, k in kernels.items()
    }
  (B, T, D), C = x_BTD.shape, choice_BTC.shape[-1]
  J, M = B * T, len(kernels["down"])
  choice_JC = choice_BTC.reshape(J, C)
  if cuts.experts:
    choice_JC -= M * jax.lax.axis_index(cuts.experts)
  order_Q, place_P, sizes_M = _sorted(choice_JC, M)
  rows_QD = _take(x_BTD.reshape(J, D), order_Q // C, place_P, C)

  def widen(name: str) -> jax.Array:
    return grouped.matmul(rows_QD, kernels[name], sizes_M)

  out_QD = grouped.matmul(activate(activation, widen), kernels["down"], sizes_M)
  out_JCD = _take(out_QD, place_P, order_Q, 1).reshape(J, C, D)
  y_JD = (out_JCD * weight_BTC.reshape(J, C, 1)).sum(1).astype(out_QD.dtype)
  y_BTD = y_JD.reshape(B, T, D)
  for name in reversed(shared):
    y_BTD = jax.lax.psum_scatter(y_BTD, name, tiled=True)
  rest = (*(n for n in cuts.experts if n not in shared), *cuts.inner)
  return jax.lax.psum(y_BTD, rest) if rest else y_BTD


def _varying(tree: Any, names: set[str]) -> Any:
  """Arrays whose gradient is summed over devices along some axes."""
  return jax.lax.pcast(tree, tuple(sorted(names)), to="varying")


def _sorted(
  choice_JC: jax.Array, M: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Choices by expert: their order, the place of each, and how many there are.

  Those of other experts than the M come last, and have place Q.
  """
  J, C = choice_JC.shape
  P, Q = J * C, J * min(C, M)  # no token takes an expert twice
  mine_JCM = choice_JC[..., None] == jnp.arange(M)
  count_JM = mine_JCM.sum(1, dtype=jnp.int32)
  sizes_M = count_JM.sum(0)
  # Places before those of a token, by expert; sums cost less than a sort.
  before_JM = jnp.cumsum(count_JM, 0) - count_JM
  before_JM += jnp.cumsum(sizes_M) - sizes_M
  place_JC = jnp.where(mine_JCM, before_JM[:, None], 0).sum(-1)
  place_JC = jnp.where(mine_JCM.any(-1), place_JC, Q)
  expert_P = jnp.where(mine_JCM.any(-1), choice_JC, M).reshape(P)
  if (M + 1) * P < 2**31:  # one number a choice is sorted soonest
    key_P = expert_P * P + jnp.arange(P, dtype=jnp.int32)
    order_P = jax.lax.sort(key_P, is_stable=False) % P
  else:
    order_P = jnp.argsort(expert_P, stable=True)
  return order_P[:Q], place_JC.reshape(P), sizes_M


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _take(
  x: jax.Array, index: jax.Array, inverse: jax.Array, copies: int
) -> jax.Array:
  """Rows of x by number, 0 where there is none of it.

  The gradient gathers, too: a sum by scattering has no order on a GPU. Copy c
  of row r went to place `inverse[copies * r + c]`, if there is that place.
  """
  del inverse, copies
  return jnp.take(x, index, 0, mode="fill", fill_value=0)


def _take_forward(
  x: jax.Array, index: jax.Array, inverse: jax.Array, copies: int
) -> tuple[jax.Array, jax.Array]:
  return _take(x, index, inverse, copies), inverse


def _take_backward(copies: int, inverse: jax.Array, g: jax.Array) -> tuple:
  back = jnp.take(g, inverse, 0, mode="fill", fill_value=0)
  return back.reshape(-1, copies, *g.shape[1:]).sum(1), None, None


_take.defvjp(_take_forward, _take_backward)


def _suffix(name: str) -> str:
  return "MFD" if name == "down" else "MDF"
