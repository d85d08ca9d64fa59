"""Rows of completions, those that belong together beside each other.

Dimension key: T positions; G rows that belong together; U units of them.

A unit is G rows, of which a batch holds whole ones, one after another; every
row is a prompt with a completion and padding, as [B, T] arrays that `Causal`
could read. Only a completion's tokens, the one that ends it included, are in
`mask_BT`; those of the prompt are in `prompt_BT`. A row without a completion
has neither. With a column `c_B` a row also has a number.

  pairs     G = 2: chosen, rejected. `margin_B` f32: how much better.
  labels    G = 2: a prompt with its completion, then the same prompt with
            that of another, for what KTO compares with. `label_B` f32: 1 =
            liked, 0 = not; `mismatched_B` bool: the second of the two.
  classes   G = 1: a prompt with its completion. `class_B` i32: its class.
  rankings  G = K: best first. `rank_B` i32: those as good have the same; -1 =
            no completion.

`row_B` i32 numbers the rows of a split that differ, whatever the order. The
token that ends a completion is predicted, as in training on answers; it is not
read.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import NamedTuple

import numpy as np

from llm_jax.data.packing import Row
from llm_jax.data.preference_tokens import Part
from llm_jax.data.tokens import Tokens


class Units(NamedTuple):
  """Which completion stands where.

  Numbers are of documents of `Tokens`, each a completion with its prompt.
  """

  prompt_UG: np.ndarray  # whose prompt; -1 = an empty row
  completion_UG: np.ndarray  # whose completion
  columns: dict[str, np.ndarray]  # name of [B] -> [U, G]

  def moved(self, by: int) -> "Units":
    """The same, of documents that stand behind `by` others."""
    moved = lambda a: np.where(a < 0, a, a + by)
    return Units(moved(self.prompt_UG), moved(self.completion_UG), self.columns)


def join(units: Sequence[Units]) -> Units:
  """Several as one, in order."""
  names = units[0].columns
  return Units(
    np.concatenate([u.prompt_UG for u in units]),
    np.concatenate([u.completion_UG for u in units]),
    {name: np.concatenate([u.columns[name] for u in units]) for name in names},
  )


def pairs(part: Part, kept: np.ndarray, length: int) -> Units:
  """Chosen and rejected, unless nothing of where they differ is in a row.

  Args:
    part: a split of a source.
    kept: which completions may stand in a row.
    length: T.
  """
  offsets, ids = part.tokens.offsets, part.tokens.ids
  here = kept[part.pairs].all(1)
  # Of different completions only the beginnings can be the same.
  cut = here & (np.diff(offsets)[part.pairs] > length).any(1)
  for i in np.flatnonzero(cut).tolist():
    w, l = (
      ids[a : min(b, a + length)]
      for a, b in zip(
        offsets[part.pairs[i]], offsets[part.pairs[i] + 1], strict=True
      )
    )
    here[i] = not np.array_equal(w, l)
  both_U2 = part.pairs[here]
  margin_U2 = np.repeat(part.margins[here, None], 2, 1)
  return Units(both_U2, both_U2, {"row_B": both_U2, "margin_B": margin_U2})


def labels(part: Part, kept: np.ndarray) -> Units:
  """Each liked or disliked completion, and its prompt with another's.

  The other is the next in a fixed order whose prompt is not the same one, as
  when completions are rotated, arXiv:2402.01306, section 4.1.

  Raises:
    ValueError: all completions are of one prompt.
  """
  chosen = np.flatnonzero(kept & (part.likes >= 0))
  chosen = np.random.default_rng(0).permutation(chosen)
  preference = np.repeat(np.arange(len(part.places)), np.diff(part.first))
  of = preference[chosen]
  if len(chosen) and (of == of[0]).all():
    raise ValueError("labels need completions of two prompts or more")
  by = np.ones(len(chosen), int)
  while len(again := np.flatnonzero(of == of[(_at(by) + by) % len(by)])):
    by[again] += 1
  other = chosen[(_at(by) + by) % max(len(by), 1)]
  count = len(part.begin)
  return Units(
    np.stack([chosen, chosen], 1),
    np.stack([chosen, other], 1),
    {
      "row_B": np.stack([chosen, count + chosen], 1),
      "label_B": np.repeat(part.likes[chosen, None], 2, 1).astype(np.float32),
      "mismatched_B": np.tile([False, True], (len(chosen), 1)),
    },
  )


def classes(part: Part, kept: np.ndarray) -> Units:
  """Each completion whose class is known."""
  which_U1 = np.flatnonzero(kept & (part.classes >= 0))[:, None]
  class_U1 = part.classes[which_U1].astype(np.int32)
  return Units(which_U1, which_U1, {"row_B": which_U1, "class_B": class_U1})


def rankings(part: Part, kept: np.ndarray, most: int) -> Units:
  """All completions of a prompt, best first, in `most` rows.

  Raises:
    ValueError: a prompt has more completions.
  """
  found = [
    np.arange(a, b)
    for a, b in zip(part.first[:-1], part.first[1:], strict=True)
    if kept[a:b].all() and len(set(part.ranks[a:b])) > 1
  ]
  longest = max(map(len, found), default=0)
  if longest > most:
    raise ValueError(
      f"--data.completions={most}: a prompt has {longest} completions"
    )
  which_UG = np.full((len(found), most), -1)
  rank_UG = np.full((len(found), most), -1, np.int32)
  for u, completions in enumerate(found):
    ranks = part.ranks[completions]
    order = np.argsort(ranks, kind="stable")
    which_UG[u, : len(order)] = completions[order]
    rank_UG[u, : len(order)] = ranks[order]
  # An empty row has a number that is known.
  row_UG = np.where(which_UG < 0, which_UG[:, :1], which_UG)
  columns = {"row_B": row_UG, "rank_B": rank_UG}
  return Units(which_UG, which_UG, columns)


def _at(x: np.ndarray) -> np.ndarray:
  return np.arange(len(x))


class CompletionRows:
  """Units in an order of each epoch's own.

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
    self._units = units
    self._seed = None if seed is None else tuple(seed)
    if not len(units.prompt_UG):
      raise ValueError("the split holds no preferences")
    # Two, as epochs overlap in a prefetch.
    self._order = functools.lru_cache(maxsize=2)(self._make_order)

  def __len__(self) -> int:
    return len(self._units.prompt_UG)

  def row(self, epoch: int, index: int) -> Row:
    """Arrays of [G, T] and [G]; of [T] and numbers where G is 1."""
    u = int(self._order(epoch)[index])
    rows = [
      self._one(int(a), int(b))
      for a, b in zip(
        self._units.prompt_UG[u], self._units.completion_UG[u], strict=True
      )
    ]
    out = {name: np.stack([r[name] for r in rows]) for name in rows[0]}
    columns: Mapping[str, np.ndarray] = self._units.columns
    out |= {name: values[u] for name, values in columns.items()}
    return out if len(rows) > 1 else {name: x[0] for name, x in out.items()}

  def _one(self, prompt: int, completion: int) -> Row:
    T = self._length
    out = {
      "tokens_BT": np.zeros(T, np.int32),
      "target_BT": np.zeros(T, np.int32),
      "mask_BT": np.zeros(T, bool),
      "prompt_BT": np.zeros(T, bool),
    }
    if prompt < 0:
      return out
    t = self._tokens
    assert t.trained is not None
    start, border = (
      int(t.offsets[prompt]),
      int(t.offsets[completion] + self._begin[completion]),
    )
    begin, end = int(self._begin[prompt]), int(t.offsets[completion + 1])
    ids = np.concatenate([t.ids[start : start + begin], t.ids[border:end]])[:T]
    n = len(ids)
    out["target_BT"][:n] = ids
    out["tokens_BT"][0] = t.start_id
    out["tokens_BT"][1:n] = ids[:-1]
    out["mask_BT"][begin:n] = t.trained[border:end][: n - begin]
    out["prompt_BT"][:n] = ~out["mask_BT"][:n]
    return out

  def _make_order(self, epoch: int) -> np.ndarray:
    if self._seed is None:
      return np.arange(len(self))
    return np.random.default_rng((*self._seed, epoch)).permutation(len(self))
