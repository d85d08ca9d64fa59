"""Labelled texts as token ids, ready to be put into batches.

Beside what `framing` has, rows have what is to be told of them: with
`rows="classes"` `class_B` i32, with "class_sets" `classes_BO` bool, with
"numbers" `number_B` f32. `mask_BT` has the one position that tells it.

Dimension key: B rows; T positions; N examples; O classes.
"""

from collections.abc import Sequence
import json
from typing import Any

import numpy as np

from llm_jax.contracts import Share, Source, Tokenizer
from llm_jax.data import batches, cache, example_rows, mixture, sides, splits
from llm_jax.data.class_names import ClassNames
from llm_jax.data.example_rows import ExampleRows
from llm_jax.data.example_tokens import Part
from llm_jax.data.framing import Frame


class Exampled:
  """Examples by source and split.

  Attributes:
    identity: changes with the examples, the tokenizer and what is told apart.
    classes: names, by number; none where numbers are told.
    notes: what was left out or done, in words.
  """

  def __init__(
    self,
    settings: Any,
    by_source: list[dict[str, Part]],
    identities: Sequence[str],
    tokenizer: Tokenizer,
  ):
    self._settings, self._by_source = settings, by_source
    self._frame = Frame.of(tokenizer, settings.between, settings.source)
    least = self._frame.added(True) + 2
    if settings.length < least:
      raise ValueError(
        f"--data.length={settings.length}: too short for two texts and what is"
        f" around them; at least {least}"
      )
    self._names = self._named()
    self.classes = self._names.names
    self.identity = cache.fingerprint(
      tokenizer.fingerprint, *identities, *self.classes
    )
    self.notes = [note for s in splits.SPLITS if (note := self._long(s))]
    self._columns = {
      split: [
        mixture.of_source(i, self._told, i, split)
        for i in range(len(by_source))
      ]
      for split in splits.SPLITS
    }

  def train(self, batch_size: int, seed: int, block: Share = (0, 1)) -> Source:
    """Endless training batches; `block` is this process's (index, count)."""
    self._check("train")
    s = self._settings
    given, rows, weights = s.weights or (), [], []
    for i in range(len(self._by_source)):
      its = self._rows(i, "train", (seed, i))
      if len(its):  # others are held out whole
        rows.append(its)
        weights.append(given[i] if given else float(len(its)))
    return batches.Offline(
      rows,
      weights,
      batch_size,
      block,
      widths=s.widths,
      letters=sides.letters(s.source),
    )

  def held_out(
    self, split: str, batch_size: int, block: Share = (0, 1)
  ) -> batches.Finite:
    """A whole split of all sources, each example once."""
    self._check(split)
    every = range(len(self._by_source))
    rows = example_rows.Joined([self._rows(i, split, None) for i in every])
    s = self._settings
    letters = sides.letters(s.source)
    return batches.Finite(
      rows, batch_size, block, widths=s.widths, letters=letters
    )

  def labels(self, split: str) -> dict[str, np.ndarray]:
    """What is told of the examples of a split, by column, in its order."""
    parts = [
      {name: x[self._kept(i, split)] for name, x in columns.items()}
      for i, columns in enumerate(self._columns[split])
    ]
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

  def _rows(
    self, source: int, split: str, seed: tuple[int, int] | None
  ) -> ExampleRows:
    s = self._settings
    return ExampleRows(
      self._by_source[source][split],
      self._kept(source, split),
      self._columns[split][source],
      self._frame,
      s.length,
      s.read_at == "first",
      seed,
    )

  def _kept(self, source: int, split: str) -> np.ndarray:
    """Numbers of the examples that are short enough, or may be cut."""
    part = self._by_source[source][split]
    if self._settings.too_long == "cut":
      return np.arange(len(part))
    size_N = example_rows.sizes(part, self._frame)
    return np.flatnonzero(size_N <= self._settings.length)

  def _named(self) -> ClassNames:
    """Classes as they are given, or else found in the training split."""
    s = self._settings
    if s.rows == "numbers":
      return ClassNames(())
    if s.classes:
      return ClassNames(s.classes, by_number=True)
    labels = [
      name
      for parts in self._by_source
      for text in np.unique(parts["train"].label_N).tolist()
      for name in _several(json.loads(text))
    ]
    found = ClassNames.found(labels)
    if not found.names:
      self._check("train")
      raise ValueError("the train split has no text of any class")
    if len(found.names) == 1 and s.rows == "classes":
      raise ValueError(
        f"the train split has one class alone, {found.said}: nothing is"
        " told apart; --data.sources.N.label names the column"
      )
    return found

  def _told(self, source: int, split: str) -> dict[str, np.ndarray]:
    """What is told of all examples of a source, by column."""
    s = self._settings
    texts, which_N = np.unique(
      self._by_source[source][split].label_N, return_inverse=True
    )
    labels = [json.loads(text) for text in texts.tolist()]
    if s.rows == "numbers":
      return {"number_B": np.array(labels, np.float32)[which_N]}
    numbers = [[self._number(n, split) for n in _several(x)] for x in labels]
    if s.rows == "classes":
      class_U = np.array([its[0] for its in numbers], np.int32)
      return {"class_B": class_U[which_N]}
    classes_UO = np.zeros((len(labels), len(self.classes)), bool)
    for row, its in zip(classes_UO, numbers, strict=True):
      row[its] = True
    return {"classes_BO": classes_UO[which_N]}

  def _number(self, label: str, split: str) -> int:
    found = self._names.number(label)
    if found is None:
      known = self._names.said or "none"
      whose = "--data.classes" if self._settings.classes else "the train split"
      raise ValueError(
        f"the {split} split has the class {label!r}, and {whose} has {known};"
        " --data.classes names all of them"
      )
    return found

  def _check(self, split: str) -> None:
    """ValueError where a split is none, or holds no example."""
    splits.check(split)
    every = range(len(self._by_source))
    if any(self._kept(i, split).size for i in every):
      return
    if any(len(parts[split]) for parts in self._by_source):
      raise ValueError(
        f"the {split} split is empty: no example of it is short enough for"
        f" --data.length={self._settings.length}; see --data.too_long"
      )
    raise ValueError(
      f"the {split} split is empty: {splits.remedy(split)}, or see"
      " --data.sources.N.into"
    )

  def _long(self, split: str) -> str:
    """What was done about long examples; ValueError where none may be."""
    s = self._settings
    parts = [parts[split] for parts in self._by_source]
    size_N = np.concatenate([example_rows.sizes(p, self._frame) for p in parts])
    long = int((size_N > s.length).sum())
    if not long:
      return ""
    said = (
      f"--data.length={s.length}: {long} of {len(size_N)} examples of the"
      f" {split} split are longer, the longest {int(size_N.max())} tokens"
    )
    if s.too_long == "error":
      raise ValueError(f"{said}; raise it, or set --data.too_long=cut or drop")
    return f"{said}; they are {'cut' if s.too_long == 'cut' else 'dropped'}"


def _several(label: str | list[str]) -> list[str]:
  """The classes of a label."""
  return label if isinstance(label, list) else [label]
