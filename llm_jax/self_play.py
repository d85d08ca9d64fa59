"""Self-play: rejected completions are what the reference says (SPIN).

Chen et al. 2024, arXiv:2401.01335. A player learns to tell the answers y of
the data from those y' of its opponent, which is itself an iteration ago:

  loss = l(beta log pi(y)/ref(y) - beta log pi(y')/ref(y')),  y' ~ ref

That is an objective of pairs (`DPO` is the paper's l) with a reference that
is refreshed every iteration (`training.refresh`), and this source. All that
it draws follows from the state and the seed, so its position is that of the
data, in the middle of an iteration, too.

Against one opponent the loss is least at pi = ref (p / ref)^(1 / beta) and a
constant, p being the data's distribution: with beta 1 that is p itself, and a
smaller beta goes beyond it, until the next iteration comes back.

Differs from the paper: y' is drawn for every batch and not once an iteration,
so nothing of the iteration before is mixed in; one schedule of the learning
rate spans all iterations. Where y' = y the loss has no gradient; the pair
stays, as it does in the paper's expectation.

Dimension key: B rows; Q pairs (B = 2 Q); T positions; P those of prompts.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes, keys
from llm_jax.contracts import Batch, Source
from llm_jax.experiment import SelfPlay
from llm_jax.generation import completing, decode
from llm_jax.model import Model
from llm_jax.objectives.pairwise import by_pair, by_row


class Opponent:
  """A source of pairs whose rejected completions are the reference's.

  Args:
    source: of pairs on the mesh; what they reject is not read.
    settings: how completions are drawn.
    model: the decoder of every role.
    stop_ids: that end a completion.
  """

  def __init__(
    self,
    source: Source,
    settings: SelfPlay,
    model: Model,
    stop_ids: Sequence[int],
  ):
    self._source = source
    self._draw = jax.jit(
      lambda state, batch: against(
        model,
        settings,
        tuple(stop_ids),
        state.roles["reference"],
        batch,
        keys.stream(state.key, "self_play", state.step),
      )
    )

  def next(self, state: Any) -> Batch:
    return self._draw(state, self._source.next(state))

  def get_state(self) -> dict[str, Any]:
    return self._source.get_state()

  def set_state(self, saved: dict[str, Any]) -> None:
    self._source.set_state(saved)


def against(
  model: Model,
  settings: SelfPlay,
  stop_ids: tuple[int, ...],
  variables: Any,
  batch: Batch,
  key: jax.Array,
) -> Batch:
  """Pairs whose rejected completions are drawn; pure, to be compiled.

  Args:
    model: the decoder.
    settings: how completions are drawn.
    stop_ids: that end a completion, and belong to it.
    variables: who draws.
    batch: of pairs.
    key: of this batch; each row has a key of its own from it.

  Returns:
    The batch, and of each pair what is told: the length of what was drawn,
    whether it has no end, and whether it is what it stands against.
  """
  names = ("tokens_BT", "target_BT", "mask_BT", "prompt_BT")
  sources = [name for name in batch if name.startswith("source_")]
  chosen = {name: by_pair(batch[name])[:, 0] for name in (*names, *sources)}
  prompt_QP, length_Q = completing.prompts(chosen)
  (Q, P), T = prompt_QP.shape, batch["mask_BT"].shape[1]
  limit = min(settings.max_new_tokens, T)
  out = decode.rollout(
    model.decode,
    variables,
    prompt_QP,
    length_Q,
    model.open_cache(variables, Q, P + limit),
    key,
    limit=limit,
    sampler=settings.sampler,
    stop_ids=stop_ids,
  )
  drawn = completing.completed(chosen, out)

  def both(name: str) -> jax.Array:
    pair_Q2T = jnp.stack([chosen[name], drawn[name]], axis=1)
    return axes.constrain(pair_Q2T.reshape(2 * Q, T), "BT")

  is_end_QT = jnp.isin(drawn["target_BT"], jnp.array(stop_ids))
  is_other_QT = (chosen["mask_BT"] != drawn["mask_BT"]) | (
    drawn["mask_BT"] & (chosen["target_BT"] != drawn["target_BT"])
  )
  told = {
    "drawn_length": drawn["mask_BT"].sum(-1),
    "drawn_cut": ~(is_end_QT & drawn["mask_BT"]).any(-1),
    "drawn_same": ~is_other_QT.any(-1),
  }
  float_ = jnp.result_type(float)
  return {
    **batch,
    **{name: both(name) for name in names},
    **{name: jnp.repeat(chosen[name], 2, axis=0) for name in sources},
    **{f"told_{n}_B": by_row(x.astype(float_)) for n, x in told.items()},
  }
