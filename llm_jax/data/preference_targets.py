"""Rows of completions for an encoder and a decoder: prompts are the sources.

Units are those of `preference_rows.py`, one completion a row. Its prompt is in
`source_BS`, and the same for all of a prompt; what stands around it is as in
training on answers. Of a source that is too long its end is kept, of a target
its beginning. An empty row has neither.

Dimension key: G rows that belong together; T positions of a row; S those of a
source.
"""

from collections.abc import Sequence

import numpy as np

from llm_jax.data import sides
from llm_jax.data.corruption import Pair
from llm_jax.data.packing import Row
from llm_jax.data.preference_rows import CompletionRows
from llm_jax.data.preference_units import Units
from llm_jax.data.tokens import Tokens

_NONE = np.zeros(0, np.int32)


class TargetRows(CompletionRows):
  """Units alone, in an order of each epoch's own.

  Args:
    tokens: of all completions.
    begin: ids of the prompt before each.
    lengths: S and T.
    units: what the rows hold, none packed.
    seed: numbers that the order of each epoch is drawn from; None = as given.
    frame: what stands around sources, and before targets.
  """

  def __init__(
    self,
    tokens: Tokens,
    begin: np.ndarray,
    lengths: tuple[int, int],
    units: Units,
    seed: Sequence[int] | None,
    frame: sides.Frame,
  ):
    super().__init__(tokens, begin, lengths[1], units, seed)
    self._lengths, self._frame = lengths, frame

  def _before(self, prompt_G: np.ndarray) -> np.ndarray:
    return np.zeros_like(prompt_G)

  def _one(self, prompts: np.ndarray, completions: np.ndarray) -> Row:
    (prompt,), (completion,), (S, T) = prompts, completions, self._lengths
    pair, trained = Pair(_NONE, _NONE), np.zeros(0, bool)
    if prompt >= 0:
      ids, trained = (x[:T] for x in self._completion(completion))
      pair = Pair(self._frame.source(self._prompt(prompt), S), ids)
    out = sides.in_two([pair], S, T, self._frame.start_id)
    del out["segment_BT"], out["position_BT"]  # of one target
    out["mask_BT"][: len(trained)] = trained
    return out | {"prompt_BT": np.zeros(T, bool)}
