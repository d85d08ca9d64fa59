"""Documents as ids of which only some are trained, as templates have them."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import pathlib
from typing import NamedTuple

import numpy as np

from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import cache, chat
from llm_jax.data.prepared import Prepared
from llm_jax.data.splits import Shares, SPLITS
from llm_jax.data.tokens import id_type, mapped, Tokens


class How(NamedTuple):
  """How documents become ids."""

  shares: Shares  # which split each is of
  tokenizer: Tokenizer
  template: chat.Template
  folder: pathlib.Path  # of the cache
  progress: Progress


def kept(
  kind: str,
  documents: Prepared,
  how: How,
  write: Callable[[Iterator[str], pathlib.Path], None],
) -> pathlib.Path:
  """A folder of the cache that is written, now or before.

  Args:
    kind: what is written, and in which form.
    documents: what is read.
    how: in which way.
    write: fills a folder with what documents are.
  """
  name = cache.fingerprint(
    kind,
    documents.identity,
    how.tokenizer.fingerprint,
    json.dumps(how.tokenizer.role_ids),
    how.template.source,
    repr(how.shares),
  )
  final = how.folder / "tokens" / name

  def make(partial: pathlib.Path) -> None:
    lines = how.progress(documents, total=len(documents), label="tokenising")
    write(iter(lines), partial)

  cache.once(final, make)
  return final


def of_split(
  folder: pathlib.Path, split: str, offsets: np.ndarray, tokenizer: Tokenizer
) -> Tokens:
  """What a `Writer` wrote of a split."""
  size = int(offsets[-1])
  ids = mapped(folder / f"{split}.ids", id_type(tokenizer), size)
  trained = mapped(folder / f"{split}.trained", np.dtype(bool), size)
  return Tokens(ids, offsets, tokenizer.start_id, trained)


def several(tokens: Tokens) -> int:
  """Documents with more than one stretch of ids that are trained."""
  if tokens.trained is None:
    return 0
  offsets, trained = np.asarray(tokens.offsets), np.asarray(tokens.trained)
  begins = trained.copy()
  begins[1:] &= ~trained[:-1]
  inner = offsets[1:-1]
  begins[inner] = trained[inner]  # nothing goes on from another document
  document = np.searchsorted(offsets, np.flatnonzero(begins), side="right")
  return int((np.bincount(document) > 1).sum())


class Writer:
  """Ids of a split as they come; `offsets` are of documents."""

  def __init__(
    self,
    folder: pathlib.Path,
    split: str,
    tokenizer: Tokenizer,
    held: contextlib.ExitStack,
  ):
    opened = lambda kind: held.enter_context(
      (folder / f"{split}.{kind}").open("wb")
    )
    self._ids, self._trained = opened("ids"), opened("trained")
    self._dtype = id_type(tokenizer)
    self.offsets = [0]

  def add(self, ids: Sequence[int], trained: Sequence[bool]) -> None:
    """A document, the next one."""
    self._ids.write(np.array(ids, self._dtype).tobytes())
    self._trained.write(np.array(trained, bool).tobytes())
    self.offsets.append(self.offsets[-1] + len(ids))


@contextlib.contextmanager
def writers(
  folder: pathlib.Path, tokenizer: Tokenizer
) -> Iterator[dict[str, Writer]]:
  """One for each split, open."""
  with contextlib.ExitStack() as held:
    yield {s: Writer(folder, s, tokenizer, held) for s in SPLITS}
