"""Documents as token ids: made once, then read from a memory map."""

from collections.abc import Iterable, Iterator
import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import cache
from llm_jax.data.prepared import Prepared
from llm_jax.data.splits import Shares, SPLITS

_PIECE = 2**20  # characters of one document given to the tokenizer at once
_BATCH = 2**18  # characters given to it together, about


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Token ids of many documents, one after another; `eos` ends each.

  Attributes:
    ids: [n] of an unsigned type, often a memory map.
    offsets: [documents + 1] i64; document d is ids[offsets[d]:offsets[d + 1]].
    start_id: stands before a document's first token, as its context.
    trained: [n] bool, True = to be learned; None = all.
  """

  ids: np.ndarray
  offsets: np.ndarray
  start_id: int
  trained: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.ids)


def tokenise(
  documents: Prepared,
  shares: Shares,
  tokenizer: Tokenizer,
  folder: pathlib.Path,
  progress: Progress,
) -> dict[str, Tokens]:
  """Token ids by split, made in the cache if they are not there."""
  name = cache.fingerprint(
    "tokens-2", documents.identity, tokenizer.fingerprint, repr(shares)
  )
  dtype = id_type(tokenizer)
  final = folder / "tokens" / name

  def make(partial: pathlib.Path) -> None:
    total = len(documents)
    texts = progress(documents, total=total, label="tokenising")
    size = sum(map(len, documents)) if shares.by == "position" else 0
    _write(shares.part(texts, size), tokenizer, dtype, partial)

  cache.once(final, make)
  out = {}
  for split in SPLITS:
    offsets = np.load(final / f"{split}.offsets.npy")
    ids = mapped(final / f"{split}.ids", dtype, offsets[-1])
    out[split] = Tokens(ids, offsets, tokenizer.start_id)
  return out


def id_type(tokenizer: Tokenizer) -> np.dtype:
  """What holds every id of a tokenizer, on disk."""
  return np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")


def mapped(path: pathlib.Path, dtype: np.dtype, size: int) -> np.ndarray:
  """An array in a file of this size."""
  if not size:  # nothing cannot be mapped
    return np.zeros(0, dtype)
  return np.memmap(path, dtype, "r")


def join(parts: list[Tokens]) -> Tokens:
  """Several as one, in order."""
  if len(parts) == 1:
    return parts[0]
  starts = np.cumsum([0] + [len(p) for p in parts])
  offsets = [p.offsets[:-1] + at for p, at in zip(parts, starts, strict=False)]
  trained = [
    np.ones(len(p), bool) if p.trained is None else p.trained for p in parts
  ]
  return Tokens(
    np.concatenate([p.ids for p in parts]),
    np.concatenate([*offsets, starts[-1:]]),
    parts[0].start_id,
    None if all(p.trained is None for p in parts) else np.concatenate(trained),
  )


class _Piece(NamedTuple):
  split: str
  text: str
  ends: bool  # its document


def _pieces(parts: Iterable[tuple[str, str]]) -> Iterator[_Piece]:
  """Documents, the very long ones cut after a line, where they have lines."""
  for split, text in parts:
    at = 0
    while len(text) - at > _PIECE:
      end = text.rfind("\n", at, at + _PIECE) + 1 or at + _PIECE
      yield _Piece(split, text[at:end], False)
      at = end
    yield _Piece(split, text[at:], True)


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
  batch, size = [], 0
  for piece in pieces:
    batch.append(piece)
    size += len(piece.text)
    if size >= _BATCH:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def _write(
  parts: Iterable[tuple[str, str]],
  tokenizer: Tokenizer,
  dtype: np.dtype,
  folder: pathlib.Path,
) -> None:
  """Ids as they come, then the offsets of documents."""
  files = {s: (folder / f"{s}.ids").open("wb") for s in SPLITS}
  offsets: dict[str, list[int]] = {s: [0] for s in SPLITS}
  written = dict.fromkeys(SPLITS, 0)
  try:
    for batch in _batches(_pieces(parts)):
      encoded = tokenizer.encode_batch([piece.text for piece in batch])
      for (split, _, ends), ids in zip(batch, encoded, strict=True):
        if ends:
          ids.append(tokenizer.eos_id)
          offsets[split].append(written[split] + len(ids))
        written[split] += len(ids)
        files[split].write(np.array(ids, dtype).tobytes())
  finally:
    for file in files.values():
      file.close()
  for split in SPLITS:
    np.save(folder / f"{split}.offsets.npy", np.array(offsets[split], np.int64))
