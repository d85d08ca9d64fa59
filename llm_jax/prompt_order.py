"""Prompts in the order in which a policy answers them.

Dimension key: B prompts; P places.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple
import zlib

import numpy as np

from llm_jax.contracts import Batch
from llm_jax.generation import widths as widths_lib


class Prompt(NamedTuple):
  """What is answered."""

  messages: tuple[tuple[str, str], ...]  # (role, content) of each
  ids: Sequence[int]
  reference: str | None = None  # an answer known to be right


class Prompts:
  """All prompts, pass after pass, each pass in an order of its own.

  Args:
    prompts: all of them.
    group: completions of each.
    ids: (begin of a document, pad).
    seed: of the orders.
    widths: of batches, see `aligned`.
  """

  def __init__(
    self,
    prompts: Sequence[Prompt],
    group: int,
    ids: tuple[int, int],
    seed: int,
    widths: int,
  ):
    self._prompts, self._group = prompts, group
    self._ids, self._seed, self._widths = ids, seed, widths
    self.width = max(1 + len(p.ids) for p in prompts)  # of the longest
    self._order = functools.lru_cache(2)(self._order_of)

  def asked(self, begin: int, count: int) -> list[Prompt]:
    """Some prompts in their order, each as often as it has completions.

    Args:
      begin: the first, counted over all passes.
      count: of prompts.
    """
    n = len(self._prompts)
    out = []
    for i in range(begin, begin + count):
      epoch, place = divmod(i, n)
      out += [self._prompts[self._order(epoch)[place]]] * self._group
    return out

  def aligned(self, asked: Sequence[Prompt]) -> Batch:
    """As `rollouts.draw` reads them: at one of a few widths."""
    start, pad = self._ids
    length_B = np.array([1 + len(p.ids) for p in asked], np.int32)
    longest = int(length_B.max())  # of held-out ones it may be longer
    width = widths_lib.of(longest, max(longest, self.width), self._widths)
    out_BP = np.full((len(asked), width), pad, np.int32)
    for row, p in zip(out_BP, asked, strict=True):
      row[width - 1 - len(p.ids) :] = [start, *p.ids]
    return {"prompt_BP": out_BP, "length_B": length_B}

  def _order_of(self, epoch: int) -> np.ndarray:
    """Places of prompts in a pass over all of them."""
    r = np.random.default_rng((self._seed, zlib.crc32(b"prompts"), epoch))
    return r.permutation(len(self._prompts))
