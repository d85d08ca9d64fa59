"""Which completions are compared, and which of these stand in a row together.

A unit is G completions in a fixed order, a row for each; see
`preference_rows.py` for what the order of each kind is.

Dimension key: G rows that belong together; U units of them; R packed units; S
units of these, at most.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.data import packing
from llm_jax.data.preference_tokens import Part
from llm_jax.data.tokens import Tokens


class Units(NamedTuple):
  """Which completion stands where.

  Numbers are of documents of `Tokens`, each a completion with its prompt.
  """

  prompt_UG: np.ndarray  # whose prompt; -1 = an empty row
  completion_UG: np.ndarray  # whose completion
  columns: dict[str, np.ndarray]  # name of [B] -> [U, G]
  unit_RS: np.ndarray | None = None  # packed into one, -1 = none; None = alone

  def moved(self, by: int) -> "Units":
    """The same, of documents that stand behind `by` others."""
    moved = lambda a: np.where(a < 0, a, a + by)
    prompt_UG, completion_UG = map(moved, (self.prompt_UG, self.completion_UG))
    return self._replace(prompt_UG=prompt_UG, completion_UG=completion_UG)


def alike(units: Sequence[Units]) -> list[Units]:
  """Each with the same S."""
  size = max(0 if u.unit_RS is None else u.unit_RS.shape[1] for u in units)

  def widened(unit_RS: np.ndarray | None) -> np.ndarray | None:
    if unit_RS is None:
      return None
    more = ((0, 0), (0, size - unit_RS.shape[1]))
    return np.pad(unit_RS, more, constant_values=-1)

  return [u._replace(unit_RS=widened(u.unit_RS)) for u in units]


def join(units: Sequence[Units]) -> Units:
  """Several as one, in order."""
  put = lambda name: np.concatenate([getattr(u, name) for u in units])
  names = units[0].columns
  columns = {n: np.concatenate([u.columns[n] for u in units]) for n in names}
  together, before = [], 0
  for u in alike(units):
    if u.unit_RS is not None:
      together.append(np.where(u.unit_RS < 0, -1, u.unit_RS + before))
    before += len(u.prompt_UG)
  unit_RS = np.concatenate(together) if together else None
  return Units(put("prompt_UG"), put("completion_UG"), columns, unit_RS)


def pairs(
  part: Part, kept: np.ndarray, length: int, aside: bool = False
) -> Units:
  """Chosen and rejected, unless nothing of where they differ is in a row.

  Args:
    part: a split of a source.
    kept: which completions may stand in a row.
    length: T.
    aside: whether prompts stand in rows of their own.
  """
  ids, ends = part.tokens.ids, part.tokens.offsets[1:]
  starts = part.tokens.offsets[:-1] + (part.begin if aside else 0)
  here = kept[part.pairs].all(1)
  # Of different completions only the beginnings can be the same.
  cut = here & ((ends - starts)[part.pairs] > length).any(1)
  for i in np.flatnonzero(cut).tolist():
    w, l = (
      ids[a : min(b, a + length)]
      for a, b in zip(starts[part.pairs[i]], ends[part.pairs[i]], strict=True)
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


def answers(part: Part, kept: np.ndarray) -> Units:
  """Each liked completion, and nothing that it is preferred to."""
  liked_U = np.flatnonzero(kept & (part.likes == 1))
  which_U2 = np.stack([liked_U, np.full_like(liked_U, -1)], 1)
  row_U2 = np.repeat(liked_U[:, None], 2, 1)
  return Units(which_U2, which_U2, {"row_B": row_U2})


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


def packed(
  units: Units, tokens: Tokens, begin: np.ndarray, length: int
) -> Units:
  """The same, as many together as rows of `length` have room for."""
  prompt_UG, completion_UG = units.prompt_UG, units.completion_UG
  answer = np.diff(tokens.offsets) - begin
  size_UG = begin[prompt_UG] + answer[completion_UG]
  size_UG = np.where(prompt_UG < 0, 0, np.minimum(size_UG, length))
  if not len(size_UG):
    return units._replace(unit_RS=np.zeros((0, 0), int))
  order = np.random.default_rng(0).permutation(len(size_UG))
  found, count_R = packing.best_fit_abreast(order, size_UG, length)
  there_RS = np.arange(count_R.max()) < count_R[:, None]
  unit_RS = np.full(there_RS.shape, -1)
  unit_RS[there_RS] = found
  return units._replace(unit_RS=unit_RS)
