"""Tokenised preferences, ready to be put into batches."""

from collections.abc import Iterator
import functools

import numpy as np

from llm_jax.contracts import Share, Tokenizer
from llm_jax.data import (
  batches,
  cache,
  chat,
  mixture,
  preference_rows,
  preference_targets,
  preference_tokens,
  preference_units,
  prepared,
  splits,
  tokens,
)
from llm_jax.data.columns import Columns
from llm_jax.data.conversation import Conversation
from llm_jax.data.preference import from_json
from llm_jax.data.questions import Asked, Questions
from llm_jax.data.tokens import Tokens


class Preferred(Asked):
  """Preferences as token ids, the completions trained."""

  def __init__(
    self,
    settings: Questions,
    by_source: list[preference_tokens.Tokenised],
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
    template: chat.Template,
    columns: Columns | None = None,
  ):
    super().__init__(settings, documents, tokenizer, template)
    self._by_source, self._columns = by_source, columns or {}
    self.rows_together = self._settings.rows_together
    self._units = functools.cache(
      lambda source, split: mixture.of_source(source, self._make, source, split)
    )
    long = (self._long(s) for s in splits.SPLITS)
    self.notes = [*filter(None, long), *self._said()]

  def held_out(
    self, split: str, batch_size: int, block: Share = (0, 1)
  ) -> batches.Finite:
    """A whole split of all sources, each pair or completion once."""
    self._check(split)
    parts = [t.parts[split] for t in self._by_source]
    starts = np.cumsum([0, *(len(p.begin) for p in parts)]).tolist()
    units = [
      u.moved(at) for u, at in zip(self._all_units(split), starts, strict=False)
    ]
    begin = np.concatenate([p.begin for p in parts])
    whole = preference_units.join(units)
    rows = self._made(self.tokens(split), begin, whole, None)
    return batches.Finite(
      rows, batch_size, block, self.rows_together, self._settings.widths
    )

  def tokens(self, split: str) -> tokens.Tokens:
    """All completions of a split with their prompts, long ones whole."""
    self._check(split)
    return tokens.join([t.parts[split].tokens for t in self._by_source])

  @property
  def about(self) -> dict[str, str]:
    """Whatever decides what a row with its `row_B` holds, by name."""
    s = self._settings
    names = ["rows", "completions", "length", "too_long", "validation", "test"]
    if s.packing != "one":
      names.append("packing")
    if s.source.length:
      names.append("source")
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

  def read_as(self, settings: Questions) -> "Preferred":
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
    kept = self._fits(part)
    if s.rows == "pairs":
      aside = s.source.length > 0
      units = preference_units.pairs(part, kept, s.length, aside)
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
    units = preference_units.alike(self._all_units("train"))[source]
    return self._made(part.tokens, part.begin, units, seed)

  def _made(
    self,
    found: Tokens,
    begin: np.ndarray,
    units: preference_units.Units,
    seed: tuple[int, int] | None,
  ) -> preference_rows.CompletionRows:
    """Rows of completions behind their prompts, or with these beside them."""
    s = self._settings
    if not s.source.length:
      return preference_rows.CompletionRows(found, begin, s.length, units, seed)
    lengths = s.source.length, s.length
    frame = s.source.frame(self._tokenizer)
    return preference_targets.TargetRows(
      found, begin, lengths, units, seed, frame
    )

  def _sizes(self, part: preference_tokens.Part) -> np.ndarray:
    """Ids of each completion with its prompt; or of the source, and of it."""
    whole_N, s = np.diff(part.tokens.offsets), self._settings
    if not s.source.length:
      return whole_N[:, None]
    around = s.source.frame(self._tokenizer).around
    return np.stack([part.begin + around, whole_N - part.begin], 1)

  @property
  def _room(self) -> str:
    """`_lengths` as flags."""
    s = self._settings
    own = f"--data.length={s.length}"
    if not s.source.length:
      return own
    return f"--data.source.length={s.source.length} and {own}"

  @property
  def _lengths(self) -> tuple[int, ...]:
    """How much room there is for each of `_sizes`."""
    s = self._settings
    return (s.source.length, s.length) if s.source.length else (s.length,)

  def _fits(self, part: preference_tokens.Part) -> np.ndarray:
    """Which completions fit, or leave something to train on where cut."""
    s = self._settings
    if s.too_long == "cut" and not s.source.length:
      return part.begin < s.length
    fits = np.all(self._sizes(part) <= self._lengths, axis=1)
    if s.too_long == "cut" and s.source.length:
      fits |= s.source.length > s.source.frame(self._tokenizer).around
    return fits

  def _empty(self, split: str, remedy: str) -> str:
    if self._long(split):
      return (
        f"the {split} split holds no {self._settings.rows} that are short"
        f" enough for {self._room}"
      )
    return (
      f"the {split} split holds no {self._settings.rows}: {remedy}, give more"
      " preferences, or see --data.rows"
    )

  def _places(self, source: int, split: str, shown: bool) -> np.ndarray:
    """What is too long for a row is asked, too."""
    del shown
    return _answered(self._by_source[source].parts[split])

  def _read(self, line: str) -> Conversation:
    """The prompt with its best completion, or one of them."""
    found = from_json(line)
    return found.conversation(found.ranks().index(0))

  def _long(self, split: str) -> str:
    """What was done about long completions; ValueError where none may be."""
    s = self._settings
    parts = [t.parts[split] for t in self._by_source]
    sizes = np.concatenate([self._sizes(p) for p in parts])
    long = int((sizes > self._lengths).any(1).sum())
    if not long:
      return ""
    *source, longest = sizes.max(0).tolist()
    said = (
      f"{self._room}: {long} of {len(sizes)} completions of the {split} split"
    )
    if source:
      said += (
        f" or their prompts are longer, the longest {longest} and {source[0]}"
        " tokens"
      )
    else:
      said += f" are longer with their prompts, the longest {longest} tokens"
    if s.too_long == "error":
      it = "them" if source else "it"
      raise ValueError(
        f"{said}; raise {it}, or set --data.too_long=cut or drop"
      )
    held = np.concatenate([_lacking(p, s.rows, self._fits(p)) for p in parts])
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


def _lacking(
  part: preference_tokens.Part, rows: str, kept: np.ndarray
) -> np.ndarray:
  """Whether each pair, prompt or completion lacks one that is not kept."""
  if rows == "pairs":
    return ~kept[part.pairs].all(1)
  if rows == "rankings":
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
