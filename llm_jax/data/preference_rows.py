"""Rows of completions, those that belong together beside each other.

Dimension key: T positions; G rows that belong together; U units of them; R
packed units; S units of these, at most.

A unit is G rows, of which a batch holds whole ones, one after another; every
row is a prompt with a completion and padding, as [B, T] arrays that `Causal`
could read. Only a completion's tokens, the one that ends it included, are in
`mask_BT`; those of the prompt are in `prompt_BT`. A row without a completion
has neither. With a column `c_B` a row also has a number.

  pairs     G = 2: chosen, rejected. `margin_B` f32: how much better.
  labels    G = 2: a prompt with its completion, then the same prompt with
            that of another, for what KTO compares with. `label_B` f32: 1 =
            liked, 0 = not; `mismatched_B` bool: the second of the two.
  answers   G = 2: a completion that is liked, then an empty row.
  classes   G = 1: a prompt with its completion. `class_B` i32: its class.
  rankings  G = K: best first. `rank_B` i32: those as good have the same; -1 =
            no completion.

`row_B` i32 numbers the rows of a split that differ, whatever the order. The
token that ends a completion is predicted, as in training on answers; it is not
read.

Units may be packed: G rows then hold several, row g the g-th completion of each
behind each other, none seeing another. `segment_BT` counts them from 1, the
same for a whole unit, `position_BT` from 0 in each, and columns are `..._BS`;
where there are fewer than S, those behind the last repeat the first. Which
units are together does not change from epoch to epoch.
"""

from collections.abc import Sequence
import functools

import numpy as np

from llm_jax.data.packing import Row
from llm_jax.data.preference_units import Units
from llm_jax.data.tokens import Tokens


class CompletionRows:
  """Units, alone or packed, in an order of each epoch's own.

  Args:
    tokens: of all completions.
    begin: ids of the prompt before each.
    length: T; what is longer is cut at its end.
    units: what the rows hold.
    seed: numbers that the order of each epoch is drawn from; None = as given.
  """

  def __init__(
    self,
    tokens: Tokens,
    begin: np.ndarray,
    length: int,
    units: Units,
    seed: Sequence[int] | None = None,
  ):
    self._tokens, self._begin, self._length = tokens, begin, length
    self._units, self._unit_RS = units, units.unit_RS
    self._seed = None if seed is None else tuple(seed)
    if not len(units.prompt_UG):
      raise ValueError("the split holds no preferences")
    # Two, as epochs overlap in a prefetch.
    self._order = functools.lru_cache(maxsize=2)(self._make_order)

  def __len__(self) -> int:
    return len(
      self._units.prompt_UG if self._unit_RS is None else self._unit_RS
    )

  def row(self, epoch: int, index: int) -> Row:
    """Arrays of [G, T] and [G] or [G, S]; without G where that is 1."""
    r = int(self._order(epoch)[index])
    units, columns = self._units, self._units.columns
    if self._unit_RS is None:
      here = np.array([r])
      out = {name: values[r] for name, values in columns.items()}
    else:
      unit_S = self._unit_RS[r]
      here = unit_S[unit_S >= 0]
      unit_S = np.where(unit_S < 0, here[0], unit_S)
      out = {f"{name}S": values[unit_S].T for name, values in columns.items()}
    G = units.prompt_UG.shape[1]
    rows = [
      self._one(units.prompt_UG[here, g], units.completion_UG[here, g])
      for g in range(G)
    ]
    out |= {name: np.stack([r[name] for r in rows]) for name in rows[0]}
    return out if G > 1 else {name: x[0] for name, x in out.items()}

  def width(self, epoch: int, index: int) -> int:
    """The longest of the G rows; T where they are packed."""
    if self._unit_RS is not None:
      return self._length
    r, t = int(self._order(epoch)[index]), self._tokens
    prompt_G = self._units.prompt_UG[r]
    completion_G = self._units.completion_UG[r][prompt_G >= 0]
    prompt_G = prompt_G[prompt_G >= 0]
    size_G = t.offsets[completion_G + 1] - t.offsets[completion_G]
    size_G += self._before(prompt_G) - self._begin[completion_G]
    return min(int(size_G.max()), self._length)

  def _before(self, prompt_G: np.ndarray) -> np.ndarray:
    """Ids in a row before what completes each prompt."""
    return self._begin[prompt_G]

  def _one(self, prompts: np.ndarray, completions: np.ndarray) -> Row:
    """A row of completions, each behind its prompt."""
    T, at = self._length, 0
    out = {name: np.zeros(T, dtype) for name, dtype in _ARRAYS.items()}
    if self._unit_RS is not None:
      out |= {name: np.zeros(T, np.int32) for name in _SEVERAL}
    both = zip(prompts.tolist(), completions.tolist(), strict=True)
    for segment, (prompt, completion) in enumerate(both, 1):
      if prompt < 0:
        continue
      ids, trained = self._ids(prompt, completion)
      here = slice(at, at + len(ids))
      out["target_BT"][here] = ids
      out["tokens_BT"][here][0] = self._tokens.start_id
      out["tokens_BT"][here][1:] = ids[:-1]
      out["mask_BT"][here] = trained
      out["prompt_BT"][here] = ~trained
      if self._unit_RS is not None:
        out["segment_BT"][here] = segment
        out["position_BT"][here] = np.arange(len(ids))
      at += len(ids)
    return out

  def _ids(self, prompt: int, completion: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a prompt and a completion, and which of them are trained."""
    read, T = self._prompt(prompt), self._length
    said, trained = self._completion(completion)
    trained = np.concatenate([np.zeros(len(read), bool), trained])
    return np.concatenate([read, said])[:T], trained[:T]

  def _prompt(self, of: int) -> np.ndarray:
    """Ids of a prompt."""
    start = int(self._tokens.offsets[of])
    return self._tokens.ids[start : start + int(self._begin[of])]

  def _completion(self, of: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a completion, and which of them are trained."""
    t = self._tokens
    assert t.trained is not None
    here = slice(int(t.offsets[of] + self._begin[of]), int(t.offsets[of + 1]))
    return t.ids[here], t.trained[here]

  def _make_order(self, epoch: int) -> np.ndarray:
    if self._seed is None:
      return np.arange(len(self))
    return np.random.default_rng((*self._seed, epoch)).permutation(len(self))


_SEVERAL = ("segment_BT", "position_BT")
_ARRAYS = {
  "tokens_BT": np.int32,
  "target_BT": np.int32,
  "mask_BT": bool,
  "prompt_BT": bool,
}
