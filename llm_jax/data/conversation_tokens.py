"""Conversations as token ids: made once, then read from a memory map."""

from collections.abc import Iterator
import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from llm_jax.contracts import Tokenizer
from llm_jax.data import chat, trained_tokens
from llm_jax.data.conversation import Conversation, from_json
from llm_jax.data.packing import Pieces
from llm_jax.data.prepared import Prepared
from llm_jax.data.splits import SPLITS
from llm_jax.data.tokens import Tokens

_TOGETHER = 512  # conversations given to the tokenizer at once


class Part(NamedTuple):
  """One split of a source."""

  tokens: Tokens
  places: np.ndarray  # of each conversation among the prepared ones


def tokenise(documents: Prepared, how: trained_tokens.How) -> dict[str, Part]:
  """Token ids by split, made in the cache if they are not there."""
  write = lambda lines, partial: _write(lines, how, partial)
  final = trained_tokens.kept("conversations-2", documents, how, write)
  out = {}
  for split in SPLITS:
    offsets = np.load(final / f"{split}.offsets.npy")
    found = trained_tokens.of_split(final, split, offsets, how.tokenizer)
    out[split] = Part(found, np.load(final / f"{split}.places.npy"))
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
  lines: Iterator[str], how: trained_tokens.How, folder: pathlib.Path
) -> None:
  """Ids and what is trained as they come, then offsets and places."""
  places: dict[str, list[int]] = {s: [] for s in SPLITS}
  at = 0
  with trained_tokens.writers(folder, how.tokenizer) as splits:
    while batch := list(itertools.islice(lines, _TOGETHER)):
      found = [from_json(line) for line in batch]
      encoded = chat.encode(
        [how.template.learned(c.messages) for c in found], how.tokenizer
      )
      for conversation, (ids, trained) in zip(found, encoded, strict=True):
        split = how.shares.at(conversation.placed)
        splits[split].add(ids, trained)
        places[split].append(at)
        at += 1
  for split, writer in splits.items():
    offsets = np.array(writer.offsets, np.int64)
    np.save(folder / f"{split}.offsets.npy", offsets)
    np.save(folder / f"{split}.places.npy", np.array(places[split], np.int64))


def beginning(
  conversations: list[Conversation],
  tokenizer: Tokenizer,
  template: chat.Template,
) -> list[list[int]]:
  """Ids of each up to its answer, as they stand in training."""
  pieces = [template.pieces(c.messages, True) for c in conversations]
  return [e.ids for e in chat.encode(pieces, tokenizer)]
