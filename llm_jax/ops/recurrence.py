"""Recurrent cells, and a loop of them over time.

Dimension key: B sequences; T positions; J gates; A width of the state; D the
same, as it is read.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

State = tuple[jax.Array, ...]
"""What a cell says, h, and what else it hands on; each [B, A]."""
Cell = Callable[[jax.Array, jax.Array, State], State]
"""(what the token brings [B, J, A], what h brings, state) -> state."""


def lstm(x_BJA: jax.Array, h_BJA: jax.Array, state: State) -> State:
  """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c')

  with i, f, g, o = x + h, in this order.
  """
  c_BA = state[1]
  z_BJA = x_BJA.astype(c_BA.dtype) + h_BJA.astype(c_BA.dtype)
  i, f, g, o = (z_BJA[:, j] for j in range(4))
  sigmoid = jax.nn.sigmoid
  c_BA = sigmoid(f) * c_BA + sigmoid(i) * jnp.tanh(g)
  return (sigmoid(o) * jnp.tanh(c_BA)).astype(state[0].dtype), c_BA


def gru(x_BJA: jax.Array, h_BJA: jax.Array, state: State) -> State:
  """Gated recurrent unit (arXiv:1406.1078), reset after the product.

    n = tanh(x_n + sigmoid(x_r + h_r) h_n)
    h' = n + sigmoid(x_z + h_z) (h - n)

  with r, z, n in this order. Differs from the paper: the reset gate is applied
  to what the state brings, not to the state, so that one product does.
  """
  (old_BA,) = state
  wide = jnp.promote_types(old_BA.dtype, jnp.float32)
  x_BJA, h_BJA = x_BJA.astype(wide), h_BJA.astype(wide)
  r = jax.nn.sigmoid(x_BJA[:, 0] + h_BJA[:, 0])
  z = jax.nn.sigmoid(x_BJA[:, 1] + h_BJA[:, 1])
  n = jnp.tanh(x_BJA[:, 2] + r * h_BJA[:, 2])
  return ((n + z * (old_BA.astype(wide) - n)).astype(old_BA.dtype),)


def run(
  cell: Cell,
  x_BTJA: jax.Array,
  kernel_DJA: jax.Array,
  bias_JA: jax.Array,
  initial: State,
  reset_BT: jax.Array | None = None,
  hold_BT: jax.Array | None = None,
  anew: State | None = None,
) -> State:
  """The state after each position, [B, T, A]; what the cell says comes first.

  Args:
    cell: one step.
    x_BTJA: what each token brings.
    kernel_DJA: what multiplies the state.
    bias_JA: added to that.
    initial: the state before the first position.
    reset_BT: positions before which the state becomes `initial` again.
    hold_BT: positions that leave the state as it is.
    anew: [B, T, A], what it becomes there in the place of `initial`.
  """
  turn = lambda a: a.swapaxes(0, 1)
  x_TBJA, *marks = jax.tree.map(turn, (x_BTJA, reset_BT, hold_BT, anew))
  states = _states(cell, x_TBJA, kernel_DJA, bias_JA, initial, *marks)[0]
  return tuple(map(turn, states))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _states(
  cell: Cell,
  x_TBJA: jax.Array,
  kernel_DJA: jax.Array,
  bias_JA: jax.Array,
  initial: State,
  reset_TB: jax.Array | None,
  hold_TB: jax.Array | None,
  anew: State | None,
) -> tuple[State, jax.Array]:
  """States [T, B, A] after each position, and what they brought [T, B, J, A].

  Its backward pass has the sums over positions, of gradients of the kernel and
  the bias, outside of the loop: as one product.
  """

  def one(state: State, xs: tuple) -> tuple[State, tuple]:
    x_BJA, reset_B, hold_B, begin = xs
    state = _before(state, initial if begin is None else begin, reset_B)
    h_BJA = _product(state[0], kernel_DJA) + bias_JA
    new = _after(cell, x_BJA, h_BJA, state, hold_B)
    return new, (new, h_BJA)

  xs = x_TBJA, reset_TB, hold_TB, anew
  return jax.lax.scan(one, initial, xs)[1]


def _before(state: State, initial: State, reset_B: Any) -> State:
  if reset_B is None:
    return state
  return jax.tree.map(
    lambda a, b: jnp.where(reset_B[:, None], b, a), state, initial
  )


def _after(
  cell: Cell, x_BJA: jax.Array, h_BJA: jax.Array, state: State, hold_B: Any
) -> State:
  new = cell(x_BJA, h_BJA, state)
  if hold_B is None:
    return new
  return jax.tree.map(lambda a, b: jnp.where(hold_B[:, None], b, a), new, state)


def _product(h_BD: jax.Array, kernel_DJA: jax.Array) -> jax.Array:
  return jax.lax.dot_general(h_BD, kernel_DJA, (((1,), (0,)), ((), ())))


def _forward(cell: Cell, *given: Any) -> tuple[Any, tuple]:
  states, h_TBJA = _states(cell, *given)
  return (states, h_TBJA), (given, states, h_TBJA)


def _backward(cell: Cell, saved: tuple, grads: tuple) -> tuple:
  """Gradients; what each position brought must have none of its own."""
  given, states, h_TBJA = saved
  x_TBJA, kernel_DJA, _, initial, reset_TB, hold_TB, anew = given
  earlier = jax.tree.map(
    lambda a, s: jnp.concatenate([a[None], s[:-1]]), initial, states
  )
  zeros = jax.tree.map(jnp.zeros_like, initial)

  def one(carry: tuple, xs: tuple) -> tuple:
    later, first = carry  # gradients: of the state after, of the initial one
    own, old, x_BJA, h_BJA, reset_B, hold_B, begin = xs
    before = _before(old, initial if begin is None else begin, reset_B)
    _, pull = jax.vjp(
      lambda x, h, s: _after(cell, x, h, s, hold_B), x_BJA, h_BJA, before
    )
    dx_BJA, dh_BJA, (dsay_BA, *rest) = pull(jax.tree.map(jnp.add, later, own))
    back_BA = jax.lax.dot_general(
      dh_BJA, kernel_DJA, (((1, 2), (1, 2)), ((), ()))
    )
    state, dbegin = (dsay_BA + back_BA, *rest), None
    if reset_B is not None:
      keep = lambda a, b: jnp.where(reset_B[:, None], a, b)
      dbegin = jax.tree.map(lambda s: keep(s, 0), state)
      if begin is None:
        first, dbegin = jax.tree.map(jnp.add, first, dbegin), None
      state = jax.tree.map(lambda s: keep(0, s), state)
    return (state, first), (dx_BJA, dh_BJA, before[0], dbegin)

  ends: Any = jax.lax.scan(
    one,
    (zeros, zeros),
    (grads[0], earlier, x_TBJA, h_TBJA, reset_TB, hold_TB, anew),
    reverse=True,
  )
  (later, first), (dx_TBJA, dh_TBJA, before_TBD, danew) = ends
  dkernel_DJA = jnp.einsum("tbd,tbja->dja", before_TBD, dh_TBJA)
  dinitial = jax.tree.map(jnp.add, later, first)
  dbias_JA = dh_TBJA.sum((0, 1))
  return dx_TBJA, dkernel_DJA, dbias_JA, dinitial, None, None, danew


_states.defvjp(_forward, _backward)
