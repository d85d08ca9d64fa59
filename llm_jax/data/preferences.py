"""Preferences as training data: sources, shares, templates, pairs.

How rows stand in a batch, and which columns they have, is told in
`preference_rows.py`. `rows_together` of them follow each other and must be in
one microbatch; a batch is a whole number of these.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import pathlib
from typing import Literal

import numpy as np

from llm_jax.config import field
from llm_jax.contracts import Progress, Source, Tokenizer
from llm_jax.data import (
  batches,
  cache,
  chat,
  conversation_tokens,
  mixture,
  preference_rows,
  preference_tokens,
  prepared,
  splits,
  tokens,
)
from llm_jax.data.instructions import Example
from llm_jax.data.preference import from_json
from llm_jax.data.preference_sources import PreferenceFiles, TFDSPreferences
from llm_jax.data.stdlib_preferences import StdlibPreferences


@dataclasses.dataclass(frozen=True)
class Preferences:
  """Weighted sources of preferences, as rows that objectives compare."""

  sources: tuple[StdlibPreferences | PreferenceFiles | TFDSPreferences, ...] = (
    StdlibPreferences(),
  )
  weights: tuple[float, ...] = field(
    (), "share of pairs from each source; none = as many as it has"
  )
  temperature: float = field(
    1.0, "shares are raised to 1 / this; above 1 = more alike", low=1e-3
  )
  rows: Literal["pairs", "labels", "rankings"] = field(
    "pairs",
    "chosen and rejected; or each completion liked or not; or all completions"
    " of a prompt, best first",
  )
  completions: int = field(
    4, "most completions of a prompt, with --data.rows=rankings", low=2
  )
  template: str = field(
    "chat",
    "chat = turns between special tokens, plain = prompt, answer, eos; or a"
    " .jinja file",
  )
  length: int = field(256, "T, tokens in a row", low=1)
  too_long: Literal["error", "cut", "drop"] = field(
    "error",
    "what is done with a completion longer, with its prompt, than a row",
  )
  poor: float = field(
    0.6,
    "a labeller is named who agrees less often than this with what most of the"
    " others say",
    low=0,
    high=1,
  )
  validation: float = field(0.05, "share held out", low=0, high=1)
  test: float = field(0.0, "second share held out", low=0, high=1)
  cache: str | None = field(
    None, "folder of prepared data; none = ~/.cache/llm_jax"
  )

  def __post_init__(self) -> None:
    mixture.check(self.weights, len(self.sources), self.validation, self.test)

  @property
  def rows_together(self) -> int:
    """Rows of a batch that belong together, one after another."""
    return self.completions if self.rows == "rankings" else 2

  def prepare(self, progress: Progress) -> "Corpus":
    """Reads every source once, or finds it in the cache."""
    template = chat.Template(self.template)
    folder = cache.folder(self.cache)
    documents = [
      mixture.of_source(i, prepared.prepare, s, folder, progress)
      for i, s in enumerate(self.sources)
    ]
    return Corpus(self, folder, documents, template)


class Corpus:
  """Prepared preferences, and what is made of them."""

  def __init__(
    self,
    settings: Preferences,
    folder: pathlib.Path,
    documents: list[prepared.Prepared],
    template: chat.Template,
  ):
    self._settings, self._folder = settings, folder
    self._documents, self._template = documents, template
    self._shares = splits.Shares("hash", settings.validation, settings.test)

  def texts(self, split: str) -> Iterator[str]:
    """What is said in a split; any beginning is a fair sample."""
    places = [(d, i) for d in self._documents for i in range(len(d))]
    for n in np.random.default_rng(0).permutation(len(places)).tolist():
      documents, i = places[n]
      found = from_json(documents[i])
      if not found.fault and self._shares.at(found.placed) == split:
        said = (*(m.content for m in found.prompt), *found.completions)
        yield "\n".join(said)

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> "Preferred":
    """Token ids of every split, or those in the cache."""
    by_source = [
      preference_tokens.tokenise(
        d, self._shares, tokenizer, self._template, self._folder, progress
      )
      for d in self._documents
    ]
    return Preferred(
      self._settings, by_source, self._documents, tokenizer, self._template
    )


class Preferred:
  """Token ids by source and split; the same methods as `text.Tokenised`.

  Attributes:
    identity: changes with the preferences, tokenizer and template.
    rows_together: rows of a batch that belong together.
    notes: what was left out, and how far labellers agree, in words.
  """

  def __init__(
    self,
    settings: Preferences,
    by_source: list[preference_tokens.Tokenised],
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
    template: chat.Template,
    columns: Mapping[str, Mapping[str, np.ndarray]] | None = None,
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
    return batches.Offline(
      rows, self.shares(), batch_size, block, self.rows_together
    )

  def shares(self) -> list[float]:
    """Share of what is trained on from each source; they sum to 1."""
    s = self._settings
    counts = [len(u.prompt_UG) for u in self._all_units("train")]
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
      preference_rows.join(units),
    )
    return batches.Finite(rows, batch_size, block, self.rows_together)

  def tokens(self, split: str) -> tokens.Tokens:
    """All completions of a split with their prompts, long ones whole."""
    self._check(split)
    return tokens.join([t.parts[split].tokens for t in self._by_source])

  def examples(self, split: str, limit: int | None = None) -> list[Example]:
    """Prompts of a split with the best completion, the same ones each time."""
    self._check(split)
    places = [
      (source, int(i))
      for source, found in enumerate(self._by_source)
      for i in found.parts[split].places
    ]
    chosen = np.random.default_rng(0).permutation(len(places))[:limit]
    found = []
    for source, i in (places[n] for n in chosen.tolist()):
      p = from_json(self._documents[source][i])
      found.append(p.conversation(p.ranks().index(0)))
    ids = conversation_tokens.beginning(
      [c.question for c in found], self._tokenizer, self._template
    )
    return [Example(i, c.answer, c) for i, c in zip(ids, found, strict=True)]

  def num_rows(self, split: str) -> int:
    """How many numbers `row_B` may be in a split."""
    return sum(_num_rows(t.parts[split]) for t in self._by_source)

  def carrying(
    self, columns: Mapping[str, Mapping[str, np.ndarray]]
  ) -> "Preferred":
    """The same, whose batches have more columns.

    Args:
      columns: split -> name of a column, such as `ref_logp_B` -> a number for
        each row, found there by `row_B`: [num_rows(split)].
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

  def _all_units(self, split: str) -> list[preference_rows.Units]:
    return [self._units(i, split) for i in range(len(self._by_source))]

  def _make(self, source: int, split: str) -> preference_rows.Units:
    """Units of a source whose rows are not too long, or may be cut."""
    s = self._settings
    part = self._by_source[source].parts[split]
    kept = _fits(part, s.length, s.too_long == "cut")
    if s.rows == "pairs":
      units = preference_rows.pairs(part, kept)
    elif s.rows == "labels":
      units = preference_rows.labels(part, kept)
    else:
      units = preference_rows.rankings(part, kept, s.completions)
    before = sum(_num_rows(t.parts[split]) for t in self._by_source[:source])
    row_UG = units.columns["row_B"] + before
    added = self._columns.get(split, {})
    more = {name: values[row_UG] for name, values in added.items()}
    columns = {**units.columns, "row_B": row_UG.astype(np.int32), **more}
    return units._replace(columns=columns)

  def _rows(
    self, source: int, seed: tuple[int, int]
  ) -> preference_rows.CompletionRows:
    part = self._by_source[source].parts["train"]
    return preference_rows.CompletionRows(
      part.tokens,
      part.begin,
      self._settings.length,
      self._units(source, "train"),
      seed,
    )

  def _check(self, split: str) -> None:
    if split not in splits.SPLITS:
      raise ValueError(
        f"--validation.split={split}: one of {', '.join(splits.SPLITS)}"
      )
    if not any(len(u.prompt_UG) for u in self._all_units(split)):
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
    if s.too_long == "drop":
      return f"{said}; what holds one is dropped"
    return f"{said}; they are cut, and what holds one cut away is dropped"

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


def _fits(part: preference_tokens.Part, length: int, cut: bool) -> np.ndarray:
  """Which completions fit, or leave something to train on where cut."""
  sizes = np.diff(part.tokens.offsets)
  if cut:
    return part.begin < length
  return sizes <= length


def _num_rows(part: preference_tokens.Part) -> int:
  """Completions, and each once more with another's prompt."""
  return 2 * len(part.begin)
