"""Documents as token ids: made once, then read from a memory map."""

from collections.abc import Iterable, Iterator
import dataclasses
import hashlib
import itertools
import os
import pathlib
import shutil
from typing import Literal

import numpy as np

from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import prepared

SPLITS = ("train", "validation", "test")
_AT_ONCE = 64  # documents given to the tokenizer together


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Token ids of many documents, one after another; `eos` ends each.

  Attributes:
    ids: [n] of an unsigned type, often a memory map.
    offsets: [documents + 1] i64; document d is ids[offsets[d]:offsets[d + 1]].
    start_id: stands before a document's first token, as its context.
  """

  ids: np.ndarray
  offsets: np.ndarray
  start_id: int

  def __len__(self) -> int:
    return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Shares:
  """How documents are parted."""

  by: Literal["hash", "position"]
  validation: float
  test: float

  def of(self, text: str) -> str:
    """The split of a document, by a hash of its text: the same for ever."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    at = int.from_bytes(digest, "big") / 2**64
    if at < self.test:
      return "test"
    return "validation" if at < self.test + self.validation else "train"

  def part(self, texts: Iterable[str], total: int) -> Iterator[tuple[str, str]]:
    """Yields (split, text).

    By position, the first characters of all `total` train, the next validate
    and the last test; a document across a border is cut there.
    """
    if self.by == "hash":
      yield from ((self.of(text), text) for text in texts)
      return
    borders = [
      round(total * (1 - self.validation - self.test)),
      round(total * (1 - self.test)),
      total,
    ]
    seen = 0
    for text in texts:
      start = seen
      for split, border in zip(SPLITS, borders, strict=True):
        end = min(start + len(text), border)
        if end > seen:
          yield split, text[seen - start : end - start]
          seen = end


def tokenise(
  documents: prepared.Prepared,
  shares: Shares,
  tokenizer: Tokenizer,
  cache: pathlib.Path,
  progress: Progress,
) -> dict[str, Tokens]:
  """Token ids by split, made now if they are not in the cache."""
  name = prepared.fingerprint(
    "tokens-1", documents.identity, tokenizer.fingerprint, repr(shares)
  )
  folder = cache / "tokens" / name
  if not folder.exists():
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
      _write(documents, shares, tokenizer, partial, progress)
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise
    prepared.publish(partial, folder)
  return {
    split: Tokens(
      np.load(folder / f"{split}.ids.npy", mmap_mode="r"),
      np.load(folder / f"{split}.offsets.npy"),
      tokenizer.eos_id,
    )
    for split in SPLITS
  }


def _write(
  documents: prepared.Prepared,
  shares: Shares,
  tokenizer: Tokenizer,
  folder: pathlib.Path,
  progress: Progress,
) -> None:
  dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
  total = 0
  if shares.by == "position":
    total = sum(len(text) for text in documents)
  files = {s: (folder / f"{s}.raw").open("wb") for s in SPLITS}
  lengths: dict[str, list[int]] = {s: [] for s in SPLITS}
  texts = progress(documents, total=len(documents), label="tokenising")
  parts = shares.part(texts, total)
  while batch := list(itertools.islice(parts, _AT_ONCE)):
    encoded = tokenizer.encode_batch([text for _, text in batch])
    for (split, _), ids in zip(batch, encoded, strict=True):
      ids.append(tokenizer.eos_id)
      np.array(ids, dtype).tofile(files[split])
      lengths[split].append(len(ids))
  for split, file in files.items():
    file.close()
    offsets = np.concatenate([[0], np.cumsum(lengths[split], dtype=np.int64)])
    np.save(folder / f"{split}.offsets.npy", offsets.astype(np.int64))
    raw = folder / f"{split}.raw"
    _as_npy(raw, folder / f"{split}.ids.npy", dtype, int(offsets[-1]))
    raw.unlink()


def _as_npy(
  raw: pathlib.Path, target: pathlib.Path, dtype: type, size: int
) -> None:
  out = np.lib.format.open_memmap(target, "w+", dtype, (size,))
  if size:
    out[:] = np.memmap(raw, dtype, "r", shape=(size,))
  out.flush()


def join(parts: list[Tokens]) -> Tokens:
  """Several as one, in order."""
  if len(parts) == 1:
    return parts[0]
  starts = np.cumsum([0] + [len(p) for p in parts])
  offsets = [p.offsets[:-1] + at for p, at in zip(parts, starts, strict=False)]
  return Tokens(
    np.concatenate([p.ids for p in parts]),
    np.concatenate([*offsets, starts[-1:]]),
    parts[0].start_id,
  )
