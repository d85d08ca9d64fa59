"""Token ids of many documents, for tests: every id says where it stands."""

import numpy as np

from llm_jax.data.tokens import Tokens

START = 10**6  # no id of a document


def numbered(sizes):
  """Documents of these sizes; ids are 0, 1, 2, ... over all of them."""
  offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
  return Tokens(np.arange(offsets[-1], dtype=np.uint32), offsets, START)


def random_sizes(seed=0, count=60, most=40):
  return np.random.default_rng(seed).integers(1, most, count)


def epoch(rows, number=0):
  """All rows of an epoch."""
  return [rows.row(number, i) for i in range(len(rows))]


def targets(rows):
  """Ids of all targets that count, in order."""
  return np.concatenate([row["target_BT"][row["mask_BT"]] for row in rows])
