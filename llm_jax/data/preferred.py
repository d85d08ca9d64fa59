"""Tokenised preferences, ready to be put into batches."""

from collections.abc import Iterator, Sequence
import functools
from typing import Protocol

import numpy as np

from llm_jax.contracts import Source, Tokenizer
from llm_jax.data import (
  batches,
  cache,
  chat,
  conversation_tokens,
  few_shot,
  mixture,
  preference_rows,
  preference_tokens,
  preference_units,
  prepared,
  splits,
  tokens,
)
from llm_jax.data.columns import Columns
from llm_jax.data.conversation import Conversation
from llm_jax.data.instructions import Example
from llm_jax.data.preference import from_json


class Settings(Protocol):
  """What is read of `preferences.Preferences`."""

  @property
  def weights(self) -> tuple[float, ...]: ...
  @property
  def temperature(self) -> float: ...
  @property
  def rows(self) -> str: ...
  @property
  def completions(self) -> int: ...
  @property
  def rows_together(self) -> int: ...
  @property
  def length(self) -> int: ...
  @property
  def packing(self) -> str: ...
  @property
  def too_long(self) -> str: ...
  @property
  def poor(self) -> float: ...


class Preferred:
  """Token ids by source and split; the same methods as `text.Tokenised`.

  Attributes:
    identity: changes with the preferences, tokenizer and template.
    rows_together: rows of a batch that belong together.
    notes: what was left out, and how far labellers agree, in words.
  """

  def __init__(
    self,
    settings: Settings,
    by_source: list[preference_tokens.Tokenised],
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
    template: chat.Template,
    columns: Columns | None = None,
  ):
    self._settings, self._by_source = settings, by_source
    self._documents, self._tokenizer = documents, tokenizer
    self._template, self._columns = template, columns or {}
    self.rows_together = settings.rows_together
    self.identity = cache.fingerprint(
      tokenizer.fingerprint, template.source, *(d.identity for d in documents)
    )
    self._units = functools.cache(
      lambda source, split: mixture.of_source(source, self._make, source, split)
    )
    long = (self._long(s) for s in splits.SPLITS)
    self.notes = [*filter(None, long), *self._said()]

  def train(
    self, batch_size: int, seed: int, block: tuple[int, int] = (0, 1)
  ) -> Source:
    """Endless training batches; `block` is this process's (index, count)."""
    self._check("train")
    rows = [
      mixture.of_source(i, self._rows, i, (seed, i))
      for i in range(len(self._by_source))
    ]
    # Packed, short ones take fewer rows.
    all_ = zip(self.shares(), rows, self._counts("train"), strict=True)
    weights = [share * (len(r) / count) for share, r, count in all_]
    return batches.Offline(rows, weights, batch_size, block, self.rows_together)

  def shares(self) -> list[float]:
    """Share of what is trained on from each source; they sum to 1."""
    s = self._settings
    counts = self._counts("train")
    raised = np.power(s.weights or counts, 1 / s.temperature)
    return (raised / raised.sum()).tolist()

  def held_out(
    self, split: str, batch_size: int, block: tuple[int, int] = (0, 1)
  ) -> batches.Finite:
    """A whole split of all sources, each pair or completion once."""
    self._check(split)
    parts = [t.parts[split] for t in self._by_source]
    starts = np.cumsum([0, *(len(p.begin) for p in parts)]).tolist()
    units = [
      u.moved(at) for u, at in zip(self._all_units(split), starts, strict=False)
    ]
    rows = preference_rows.CompletionRows(
      self.tokens(split),
      np.concatenate([p.begin for p in parts]),
      self._settings.length,
      preference_units.join(units),
    )
    return batches.Finite(rows, batch_size, block, self.rows_together)

  def tokens(self, split: str) -> tokens.Tokens:
    """All completions of a split with their prompts, long ones whole."""
    self._check(split)
    return tokens.join([t.parts[split].tokens for t in self._by_source])

  def examples(
    self, split: str, limit: int | None = None, shots: int = 0
  ) -> list[Example]:
    """Prompts of a split and the best completions, the same ones each time.

    Where nothing better than a disliked completion is known there is none.

    Args:
      split: of all sources, what is too long for a row included.
      limit: how many at most; None = all. Any are a fair sample.
      shots: answered ones of the train split shown before each.
    """
    self._check(split)
    places = [
      (source, int(i))
      for source, found in enumerate(self._by_source)
      for i in _answered(found.parts[split])
    ]
    chosen = np.random.default_rng(0).permutation(len(places))[:limit]
    pools = [
      _Pool(d, _answered(t.parts["train"]))
      for d, t in zip(self._documents, self._by_source, strict=True)
    ]
    found, asked = [], []
    for source, i in (places[n] for n in chosen.tolist()):
      conversation = _best(self._documents[source][i])
      found.append(conversation)
      asked.append(few_shot.show(conversation.question, pools[source], shots))
    ids = conversation_tokens.beginning(asked, self._tokenizer, self._template)
    return [Example(i, c.answer, c) for i, c in zip(ids, found, strict=True)]

  @property
  def about(self) -> dict[str, str]:
    """Whatever decides what a row with its `row_B` holds, by name."""
    s = self._settings
    names = ["rows", "completions", "length", "too_long", "validation", "test"]
    if s.packing != "one":
      names.append("packing")
    return {
      "preferences": cache.fingerprint(*(d.identity for d in self._documents)),
      "tokenizer": self._tokenizer.fingerprint,
      "--data.template": cache.fingerprint(self._template.source),
      **{f"--data.{name}": str(getattr(s, name)) for name in names},
    }

  def num_rows(self, split: str) -> int:
    """How many numbers `row_B` may be in a split."""
    return sum(_num_rows(t.parts[split]) for t in self._by_source)

  def carrying(self, columns: Columns) -> "Preferred":
    """The same, whose batches have more columns, such as `ref_logp_B`.

    Args:
      columns: as `columns.load` has them for `about`; the number of a row is
        found by its `row_B`: [num_rows(split)].

    Raises:
      ValueError: another number of rows, or a number that is not finite.
    """
    for split, added in columns.items():
      for name, values in added.items():
        if values.shape != (self.num_rows(split),):
          raise ValueError(
            f"{name} of the {split} split has {values.shape} numbers, there"
            f" are {self.num_rows(split)} rows"
          )
    return Preferred(
      self._settings,
      self._by_source,
      self._documents,
      self._tokenizer,
      self._template,
      columns,
    )

  def read_as(self, settings: Settings) -> "Preferred":
    """The same preferences as rows of another kind."""
    return Preferred(
      settings,
      self._by_source,
      self._documents,
      self._tokenizer,
      self._template,
      self._columns,
    )

  def _all_units(self, split: str) -> list[preference_units.Units]:
    return [self._units(i, split) for i in range(len(self._by_source))]

  def _make(self, source: int, split: str) -> preference_units.Units:
    """Units of a source whose rows are not too long, or may be cut."""
    s = self._settings
    part = self._by_source[source].parts[split]
    kept = _fits(part, s.length, s.too_long == "cut")
    if s.rows == "pairs":
      units = preference_units.pairs(part, kept, s.length)
    elif s.rows == "labels":
      units = preference_units.labels(part, kept)
    elif s.rows == "classes":
      units = preference_units.classes(part, kept)
    elif s.rows == "answers":
      units = preference_units.answers(part, kept)
    else:
      units = preference_units.rankings(part, kept, s.completions)
    before = sum(_num_rows(t.parts[split]) for t in self._by_source[:source])
    row_UG = units.columns["row_B"] + before
    added = self._columns.get(split, {})
    more = {name: values[row_UG] for name, values in added.items()}
    for name, found in more.items():
      if not np.isfinite(found).all():
        raise ValueError(f"{name} of the {split} split lacks a row's number")
    columns = {**units.columns, "row_B": row_UG.astype(np.int32), **more}
    units = units._replace(columns=columns)
    if s.packing == "one":
      return units
    return preference_units.packed(units, part.tokens, part.begin, s.length)

  def _counts(self, split: str) -> list[int]:
    return [len(u.prompt_UG) for u in self._all_units(split)]

  def _rows(
    self, source: int, seed: tuple[int, int]
  ) -> preference_rows.CompletionRows:
    part = self._by_source[source].parts["train"]
    return preference_rows.CompletionRows(
      part.tokens,
      part.begin,
      self._settings.length,
      preference_units.alike(self._all_units("train"))[source],
      seed,
    )

  def _check(self, split: str) -> None:
    if split not in splits.SPLITS:
      raise ValueError(
        f"--validation.split={split}: one of {', '.join(splits.SPLITS)}"
      )
    if not any(self._counts(split)):
      change = "lower" if split == "train" else "raise"
      flags = "validation and --data.test" if split == "train" else split
      raise ValueError(
        f"the {split} split holds no {self._settings.rows}: {change}"
        f" --data.{flags}, give more preferences, or see --data.rows"
      )

  def _long(self, split: str) -> str:
    """What was done about long completions; ValueError where none may be."""
    s = self._settings
    parts = [t.parts[split] for t in self._by_source]
    sizes = np.concatenate([np.diff(p.tokens.offsets) for p in parts])
    long = int((sizes > s.length).sum())
    if not long:
      return ""
    said = (
      f"--data.length={s.length}: {long} of {len(sizes)} completions of the"
      f" {split} split are longer with their prompts, the longest"
      f" {int(sizes.max())} tokens"
    )
    if s.too_long == "error":
      raise ValueError(f"{said}; raise it, or set --data.too_long=cut or drop")
    held = np.concatenate([_lacking(p, s) for p in parts])
    lost = f"{held.sum()} of {len(held)} {s.rows}"
    if s.too_long == "drop":
      return f"{said}; {lost} hold one and are dropped"
    return f"{said}; they are cut, and {lost} hold one cut away and are dropped"

  def _said(self) -> Iterator[str]:
    """What was seen in each source."""
    for i, (_, num_faulty, fault, num_ties, judged) in enumerate(
      self._by_source
    ):
      flag = f"--data.sources.{i}"
      if num_faulty:
        yield f"{flag}: {num_faulty} left out, the first being {fault}"
      if num_ties:
        yield f"{flag}: {num_ties} pairs are ties and left out"
      if judged.num_units:
        yield f"{flag}: {judged.said(self._settings.poor)}"
    if self._settings.packing != "one":
      packed = (u.unit_RS for u in self._all_units("train"))
      num_rows = sum(len(unit_RS) for unit_RS in packed if unit_RS is not None)
      mean = sum(self._counts("train")) / max(num_rows, 1)
      yield f"--data.packing: {mean:.2f} {self._settings.rows} where one stood"


def _fits(part: preference_tokens.Part, length: int, cut: bool) -> np.ndarray:
  """Which completions fit, or leave something to train on where cut."""
  sizes = np.diff(part.tokens.offsets)
  if cut:
    return part.begin < length
  return sizes <= length


def _lacking(part: preference_tokens.Part, settings: Settings) -> np.ndarray:
  """Whether each pair, prompt or completion lacks one that is left out."""
  kept = _fits(part, settings.length, settings.too_long == "cut")
  if settings.rows == "pairs":
    return ~kept[part.pairs].all(1)
  if settings.rows == "rankings":
    return ~np.logical_and.reduceat(kept, part.first[:-1])
  return ~kept


def _num_rows(part: preference_tokens.Part) -> int:
  """Completions, and each once more with another's prompt."""
  return 2 * len(part.begin)


def _answered(part: preference_tokens.Part) -> np.ndarray:
  """Places of the preferences whose best completion is not disliked."""
  best = np.flatnonzero(part.ranks == 0)
  preference = np.searchsorted(part.first, best, side="right") - 1
  _, at = np.unique(preference, return_index=True)
  return part.places[part.likes[best[at]] != 0]


def _best(line: str) -> Conversation:
  """The prompt with its best completion, or one of them."""
  found = from_json(line)
  return found.conversation(found.ranks().index(0))


class _Pool(Sequence):
  """Conversations of a split, read when looked at."""

  def __init__(self, documents: prepared.Prepared, places: np.ndarray):
    self._documents, self._places = documents, places

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, i: int) -> Conversation:  # type: ignore[override]
    return _best(self._documents[int(self._places[i])])
