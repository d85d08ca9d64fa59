"""A recurrent language model: ids -> activations, a state for a cache.

Dimension key: B sequences; T positions; L layers; D width; J gates; A width of
a state; X virtual tokens.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Batch
from llm_jax.models import blocks
from llm_jax.models.language import LanguageModel
from llm_jax.models.linear import Linear, stored
from llm_jax.models.norms import Norm
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.ops import recurrence
from llm_jax.ops.routing import Routing

State = recurrence.State
"""h [B, L, A] and, of an LSTM, c: all that is kept of a text."""
CELLS = {"lstm": recurrence.lstm, "gru": recurrence.gru}


class Marks(NamedTuple):
  """Positions at which a state is no plain successor of the one before."""

  reset_BT: jax.Array | None = None  # it begins anew
  hold_BT: jax.Array | None = None  # it stays as it is


def marks(segment_BT: jax.Array | None) -> Marks:
  """Documents each begin anew, and padding is passed over."""
  if segment_BT is None:
    return Marks()
  changes_BT = segment_BT[:, 1:] != segment_BT[:, :-1]
  return Marks(jnp.pad(changes_BT, ((0, 0), (1, 0))), segment_BT == 0)


class Whole(Linear):
  """A dense map as one kernel and bias, for a loop that applies it often."""

  @nn.compact
  def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:  # type: ignore[override]
    """Kernel and bias, with what adapters do to them.

    Dropout of an adapter leaves out inputs, the same ones at each application.
    """
    bias = self.shifted(jnp.zeros(self.features, self.dtype))
    if not (adapter := self.adapter()):
      return stored(self, self.shape, (width, *self.features)), bias
    kernel = self.product(jnp.eye(width, dtype=self.dtype))
    return kernel * adapter.get("output_scale", 1), bias


class Layer(nn.Module):
  """One cell over all positions; products of what it reads are made at once."""

  config: RecurrentConfig

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    initial: State,
    marks: Marks,
    anew: State | None = None,
  ) -> tuple[jax.Array, State]:
    c = self.config
    read_BTD = as_read(c, x_BTD)
    states = swept(c, c.embed_dim, read_BTD, initial, marks, anew)
    drop = nn.Dropout(c.dropout, deterministic=not self.has_rng("dropout"))
    y_BTD = drop(axes.constrain(states[0], "BTD"))
    last = tuple(s_BTA[:, -1] for s_BTA in states)
    return (x_BTD + y_BTD if c.residual else y_BTD), last


def as_read(config: RecurrentConfig, x_BTD: jax.Array) -> jax.Array:
  """Activations as a layer reads them."""
  if config.norm == "none":
    return x_BTD
  return Norm(config.norm, config.norm_eps, name="norm")(x_BTD)


def swept(
  config: RecurrentConfig,
  width: int,
  read_BTD: jax.Array,
  initial: State,
  marks: Marks,
  anew: State | None = None,
  prefix: str = "",
) -> State:
  """The states of one cell, A = `width`, after each position; part of a layer.

  See `recurrence.run`; `prefix` is of the names of its maps.
  """
  c, J = config, config.gates
  settings: Any = {"std": c.init_std, "dtype": jnp.dtype(c.dtype)}
  x_BTJA = Linear(
    *("DJA", (J, width)),
    bias=True,
    bias_init=bias_init(c),
    name=f"{prefix}input",
    **settings,
  )(read_BTD)
  x_BTJA = axes.constrain(x_BTJA, "BTJA")
  recurrent = Whole(
    *("DJA", (J, width)),
    bias=c.cell == "gru",
    name=f"{prefix}recurrent",
    **settings,
  )
  kernel_DJA, bias_JA = recurrent(width)
  kernel_DJA = axes.constrain(kernel_DJA, "DJA")  # gathered before the loop
  return recurrence.run(
    CELLS[c.cell], x_BTJA, kernel_DJA, bias_JA, initial, *marks, anew
  )


def zeros(config: RecurrentConfig, *shape: int) -> State:
  """A state of nothing read yet; an LSTM's memory is float32 or wider."""
  dtype = jnp.dtype(config.dtype)
  h = jnp.zeros(shape, dtype)
  if config.cell != "lstm":
    return (h,)
  return h, jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32))


def bias_init(config: RecurrentConfig) -> Any:
  """Zero but for an LSTM's forget gate."""

  def start(key: Any, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
    zeros = nn.initializers.zeros(key, shape, dtype)
    if config.cell != "lstm":
      return zeros
    return zeros.at[1].set(config.forget_bias)

  return start


def stack(config: RecurrentConfig) -> Any:
  """L layers as one; each has its part of a state, [B, L, A]."""
  return blocks.stack(config, Layer, (1, nn.broadcast), 1)


class Recurrent(LanguageModel):
  """Embedding, layers, head. Layers are stacked on a leading dim L.

  Each document of a row begins with the same state: zeros, or what a soft
  prompt leaves. Places within a document are not told.
  """

  config: RecurrentConfig

  def setup(self) -> None:
    c = self.config
    self.make_table()
    self.make_heads()
    self.blocks = stack(c)(c)
    if c.norm != "none":
      self.final_norm = Norm(c.norm, c.norm_eps)

  def read(
    self, batch: Batch, real_BT: jax.Array | None = None
  ) -> tuple[jax.Array, Routing | None]:
    del real_BT
    tokens_BT, segment_BT = batch["tokens_BT"], batch.get("segment_BT")
    B, T = tokens_BT.shape
    prompt_XD = self.prompt()
    self.check_length(T, 0 if prompt_XD is None else len(prompt_XD))
    x_BTD = self.dropped(self.embed(tokens_BT))
    return self._run(x_BTD, self._begin(B), marks(segment_BT))[0], None

  def decode(
    self,
    tokens_BT: jax.Array,
    position_BT: jax.Array,
    segment_BT: jax.Array,
    state: State,
  ) -> tuple[jax.Array, State]:
    """Reads tokens on; logits_BV of the last one, and the state after it.

    Padding (segment 0) leaves the state as it is.
    """
    del position_BT
    held = Marks(hold_BT=segment_BT == 0)
    x_BTD, state = self._run(self.embed(tokens_BT), state, held)
    return self.logits(x_BTD[:, -1]), state

  def open_cache(self, batch_size: int, slots: int) -> State:
    """The state before a text; of any length, as a state has no slots."""
    del slots
    return self._begin(batch_size)

  def _begin(self, batch_size: int) -> State:
    """Zeros, or the state that a soft prompt leaves."""
    prompt_XD = self.prompt()
    c = self.config
    empty = lambda rows: zeros(c, rows, c.num_layers, c.embed_dim)
    if prompt_XD is None:
      return empty(batch_size)
    state = self._run(prompt_XD[None], empty(1), Marks())[1]
    rows = lambda s: jnp.broadcast_to(s, (batch_size, *s.shape[1:]))
    return jax.tree.map(rows, state)

  def _run(
    self, x_BTD: jax.Array, state: State, marks: Marks
  ) -> tuple[jax.Array, State]:
    x_BTD, state = self.blocks(x_BTD, state, marks)
    if self.config.norm != "none":
      x_BTD = self.final_norm(x_BTD)
    return x_BTD, state


def repeated(state: State, times: int) -> State:
  """Each row `times` times, one after the other."""
  one = lambda x: axes.constrain(jnp.repeat(x, times, 0), "BLA")
  return jax.tree.map(one, state)
