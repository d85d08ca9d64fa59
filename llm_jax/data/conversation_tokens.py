"""Conversations as token ids: made once, then read from a memory map."""

from collections.abc import Iterator
import itertools
import json
import pathlib
from typing import NamedTuple

import numpy as np

from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import cache, chat
from llm_jax.data.conversation import Conversation, from_json
from llm_jax.data.packing import Pieces
from llm_jax.data.prepared import Prepared
from llm_jax.data.splits import Shares, SPLITS
from llm_jax.data.tokens import id_type, mapped, Tokens

_TOGETHER = 512  # conversations given to the tokenizer at once


class Part(NamedTuple):
  """One split of a source."""

  tokens: Tokens
  places: np.ndarray  # of each conversation among the prepared ones


def tokenise(
  documents: Prepared,
  shares: Shares,
  tokenizer: Tokenizer,
  template: chat.Template,
  folder: pathlib.Path,
  progress: Progress,
) -> dict[str, Part]:
  """Token ids by split, made in the cache if they are not there."""
  name = cache.fingerprint(
    "conversations-2",
    documents.identity,
    tokenizer.fingerprint,
    json.dumps(tokenizer.role_ids),
    template.source,
    repr(shares),
  )
  final, dtype = folder / "tokens" / name, id_type(tokenizer)

  def make(partial: pathlib.Path) -> None:
    lines = progress(documents, total=len(documents), label="tokenising")
    _write(iter(lines), shares, tokenizer, template, dtype, partial)

  cache.once(final, make)
  out = {}
  for split in SPLITS:
    offsets = np.load(final / f"{split}.offsets.npy")
    size = int(offsets[-1])
    ids = mapped(final / f"{split}.ids", dtype, size)
    trained = mapped(final / f"{split}.trained", np.dtype(bool), size)
    out[split] = Part(
      Tokens(ids, offsets, tokenizer.eos_id, trained),
      np.load(final / f"{split}.places.npy"),
    )
  return out


class Fitted(NamedTuple):
  """Conversations that a row has room for, and what was done to others."""

  pieces: Pieces
  kept: np.ndarray  # which conversations
  num_long: int
  num_lost: int  # of the long ones, left out


def fit(tokens: Tokens, length: int, drop: bool) -> Fitted:
  """Whole conversations; a long one is left out, or only begins.

  A beginning in which nothing is trained is left out.
  """
  assert tokens.trained is not None
  sizes = np.diff(tokens.offsets)
  long = sizes > length
  kept = ~long
  if not drop:
    for i in np.flatnonzero(long).tolist():
      start = tokens.offsets[i]
      kept[i] = tokens.trained[start : start + length].any()
  chosen = np.flatnonzero(kept)
  pieces = Pieces(
    tokens.offsets[chosen],
    np.minimum(sizes[chosen], length),
    np.ones(len(chosen), bool),
  )
  return Fitted(pieces, chosen, int(long.sum()), int((~kept).sum()))


def _write(
  lines: Iterator[str],
  shares: Shares,
  tokenizer: Tokenizer,
  template: chat.Template,
  dtype: np.dtype,
  folder: pathlib.Path,
) -> None:
  """Ids and what is trained as they come, then offsets and places."""
  offsets: dict[str, list[int]] = {s: [0] for s in SPLITS}
  places: dict[str, list[int]] = {s: [] for s in SPLITS}
  files = {
    (s, kind): (folder / f"{s}.{kind}").open("wb")
    for s in SPLITS
    for kind in ("ids", "trained")
  }
  try:
    at = 0
    while batch := list(itertools.islice(lines, _TOGETHER)):
      found = [from_json(line) for line in batch]
      encoded = chat.encode(
        [template.learned(c.messages) for c in found], tokenizer
      )
      for conversation, (ids, trained) in zip(found, encoded, strict=True):
        split = shares.at(conversation.placed)
        files[split, "ids"].write(np.array(ids, dtype).tobytes())
        files[split, "trained"].write(np.array(trained, bool).tobytes())
        offsets[split].append(offsets[split][-1] + len(ids))
        places[split].append(at)
        at += 1
  finally:
    for file in files.values():
      file.close()
  for split in SPLITS:
    np.save(folder / f"{split}.offsets.npy", np.array(offsets[split], np.int64))
    np.save(folder / f"{split}.places.npy", np.array(places[split], np.int64))


def beginning(
  conversations: list[Conversation],
  tokenizer: Tokenizer,
  template: chat.Template,
) -> list[list[int]]:
  """Ids of each up to its answer, as they stand in training."""
  pieces = [template.pieces(c.messages, True) for c in conversations]
  return [e.ids for e in chat.encode(pieces, tokenizer)]
