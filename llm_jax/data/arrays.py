"""Token ids already in a file or in memory. Needs neither TFDS nor Grain."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from llm_jax import storage
from llm_jax.config import field
from llm_jax.contracts import Batch, Share, Source
from llm_jax.data import downloads
from llm_jax.data.batches import Finite, of_block, stack
from llm_jax.data.packing import Cut, InOrder
from llm_jax.data.tokens import Tokens

_SEEN = 2**16  # ids at either end that tell one file from another
_START = 0  # stands before the first id of all, which has no other context


@dataclasses.dataclass(frozen=True)
class Arrays:
  """One long text of ids: a .npy file, or raw little-endian u16 (.bin)."""

  path: str = field("", "file of token ids; empty = random ids")
  length: int = field(256, "T, tokens in a row", low=1)
  skip_bytes: int = field(0, "header of a .bin file, bytes", low=0)
  validation: float = field(0.05, "last share, held out", low=0, high=0.99)
  random_vocab: int = field(256, "ids are below this, if random", low=2)
  random_size: int = field(1_000_000, "how many ids, if random", low=2)

  def load(self) -> "Loaded":
    """Maps the file into memory. ValueError where it is not what it should."""
    if not self.path:
      r = np.random.default_rng(0)
      return Loaded(self, r.integers(0, self.random_vocab, self.random_size))
    path = pathlib.Path(self.path).expanduser()
    if storage.is_url(self.path):
      found = downloads.fetch(self.path, ("",), "data.path", None)
      path = next(iter(found.values()), path)
    try:
      if path.suffix == ".npy":
        ids = np.load(path, mmap_mode="r")
      else:
        ids = np.memmap(path, "<u2", "r", offset=self.skip_bytes)
    except (OSError, ValueError) as e:
      raise ValueError(f"--data.path={self.path}: {e}") from e
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
      raise ValueError(
        f"--data.path={self.path}: expected one dim of integers, got"
        f" {ids.dtype}{list(ids.shape)}"
      )
    return Loaded(self, ids)


class Loaded:
  """Ids in memory, or mapped; the same methods as `text.Tokenised`."""

  def __init__(self, settings: Arrays, ids: np.ndarray):
    self._settings = settings
    ends = np.concatenate([ids[:_SEEN], ids[-_SEEN:]])
    digest = hashlib.blake2b(ends.tobytes(), digest_size=10).hexdigest()
    self.identity = f"{len(ids)} {ids.dtype} {digest}"
    border = round(len(ids) * (1 - settings.validation))
    self._parts = {"train": ids[:border], "validation": ids[border:]}

  def train(self, batch_size: int, seed: int, block: Share = (0, 1)) -> Source:
    """Endless training batches; `block` is this process's (index, count)."""
    rows = Cut(self.tokens("train"), self._settings.length, (seed,))
    return Shuffled(rows, batch_size, block)

  def held_out(
    self, split: str, batch_size: int, block: Share = (0, 1)
  ) -> Finite:
    """A whole split, each token a target once, in order."""
    rows = InOrder(self.tokens(split), self._settings.length)
    return Finite(rows, batch_size, block)

  def tokens(self, split: str) -> Tokens:
    """The ids of a split, as one document."""
    if split not in self._parts:
      raise ValueError(
        f"--validation.split={split}: one of {', '.join(self._parts)}"
      )
    ids = self._parts[split]
    if not len(ids):
      raise ValueError(f"the {split} split is empty: see --data.validation")
    return Tokens(ids, np.array([0, len(ids)]), _START)


class Shuffled:
  """Endless batches of rows without any library."""

  def __init__(self, rows: Cut, batch_size: int, block: Share):
    self._rows, self._batch_size, self._block = rows, batch_size, block
    self._done = 0

  def next(self, state: Any = None) -> Batch:
    """The next batch; does not read the training state."""
    del state
    samples = of_block(self._done, self._batch_size, self._block)
    self._done += 1
    epochs = (divmod(i, len(self._rows)) for i in samples)
    return stack([self._rows.row(epoch, at) for epoch, at in epochs])

  def get_state(self) -> dict[str, Any]:
    return {"batches": self._done}

  def set_state(self, saved: dict[str, Any]) -> None:
    self._done = int(saved["batches"])
