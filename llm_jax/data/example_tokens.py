"""Labelled texts as token ids: made once, then read from a memory map.

Dimension key: N examples.
"""

from collections.abc import Iterator
import contextlib
import itertools
import json
import pathlib
from typing import NamedTuple

import numpy as np

from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import cache
from llm_jax.data.example import Example, from_json
from llm_jax.data.prepared import Prepared
from llm_jax.data.splits import Shares, SPLITS
from llm_jax.data.tokens import id_type, mapped

_TOGETHER = 1024  # examples given to the tokenizer at once


class Part(NamedTuple):
  """One split of a source."""

  ids: np.ndarray  # of all texts, one after another
  first_N: np.ndarray  # [N + 1], where the text of each begins
  second_N: np.ndarray  # where its second text begins; -1 = it has none
  label_N: np.ndarray  # JSON

  def __len__(self) -> int:
    return len(self.label_N)

  def texts(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Ids of an example's text, or of both."""
    begin, end = int(self.first_N[i]), int(self.first_N[i + 1])
    at = int(self.second_N[i])
    if at < 0:
      return self.ids[begin:end], None
    return self.ids[begin:at], self.ids[at:end]

  @property
  def sizes(self) -> tuple[np.ndarray, np.ndarray]:
    """Ids of each text, and of the second one; -1 = there is none."""
    alone_N = self.second_N < 0
    end_N = np.where(alone_N, self.first_N[1:], self.second_N)
    second_N = np.where(alone_N, -1, self.first_N[1:] - self.second_N)
    return end_N - self.first_N[:-1], second_N


def tokenise(
  documents: Prepared,
  shares: Shares,
  tokenizer: Tokenizer,
  folder: pathlib.Path,
  progress: Progress,
) -> dict[str, Part]:
  """Token ids by split, made in the cache if they are not there."""
  about = ("examples-1", documents.identity, tokenizer.fingerprint)
  final = folder / "tokens" / cache.fingerprint(*about, repr(shares))
  dtype = id_type(tokenizer)

  def make(partial: pathlib.Path) -> None:
    lines = progress(documents, total=len(documents), label="tokenising")
    examples = map(from_json, lines)
    _write(examples, shares, tokenizer, dtype, partial)

  cache.once(final, make)
  out = {}
  for split in SPLITS:
    with np.load(final / f"{split}.npz") as saved:
      arrays = dict(saved)
    size = int(arrays["first_N"][-1])
    out[split] = Part(mapped(final / f"{split}.ids", dtype, size), **arrays)
  return out


def _write(
  examples: Iterator[Example],
  shares: Shares,
  tokenizer: Tokenizer,
  dtype: np.dtype,
  folder: pathlib.Path,
) -> None:
  """Ids as they come, then where each example begins, and its label."""
  first: dict[str, list[int]] = {s: [0] for s in SPLITS}
  second: dict[str, list[int]] = {s: [] for s in SPLITS}
  label: dict[str, list[str]] = {s: [] for s in SPLITS}
  with contextlib.ExitStack() as held:
    files = {
      s: held.enter_context((folder / f"{s}.ids").open("wb")) for s in SPLITS
    }
    while batch := list(itertools.islice(examples, _TOGETHER)):
      texts = [t for e in batch for t in (e.text, e.pair or "")]
      encoded = iter(tokenizer.encode_batch(texts))
      for example in batch:
        split = example.of(shares)
        ids, others = next(encoded), next(encoded)
        begin = first[split][-1]
        alone = example.pair is None
        second[split].append(-1 if alone else begin + len(ids))
        first[split].append(begin + len(ids) + len(others))
        label[split].append(json.dumps(example.label))
        files[split].write(np.array(ids + others, dtype).tobytes())
  for split in SPLITS:
    np.savez(
      folder / f"{split}.npz",
      first_N=np.array(first[split], np.int64),
      second_N=np.array(second[split], np.int64),
      label_N=np.array(label[split], np.str_),
    )
