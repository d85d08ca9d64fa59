"""Tags of words measured: of each word, and of the entities that they spell.

Tags are "O", or B-TYPE and I-TYPE of the words of an entity; also E- of its
last word and S- of one alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

Entity = tuple[str, int, int]  # type, first word, word behind the last


def spelled(tags: Sequence[str]) -> list[Entity]:
  """The entities of a sentence, as conlleval of CoNLL-2000 finds them.

  A word of another type than the one before it begins an entity, whatever its
  letter; so does I-TYPE after "O".
  """
  found: list[Entity] = []
  began, before = 0, ("O", "")
  for i, tag in enumerate([*tags, "O"]):
    letter, _, kind = tag.partition("-")
    old_letter, old_kind = before
    inside = old_letter in ("B", "I") and letter in ("I", "E")
    if old_letter != "O" and not (inside and kind == old_kind):
      found.append((old_kind, began, i))
    if letter != "O" and not (inside and kind == old_kind):
      began = i
    before = (letter, kind)
  return found


def are_entities(tags: Sequence[str]) -> bool:
  """Whether names of tags spell entities, rather than a class a word."""
  known = all(t == "O" or (t[:2] in _LETTERS and len(t) > 2) for t in tags)
  return known and any(t != "O" for t in tags)


_LETTERS = ("B-", "I-", "E-", "S-")


def measure(
  said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]
) -> dict[str, float]:
  """Figures of sentences.

  Returns:
    word_accuracy  share of words whose tag is the true one
    words     how many
    and where the tags spell entities, of type, begin and end alike
    precision  share of those said that are
    recall     share of those that are that were said
    f1         their harmonic mean; 0 where nothing is both

  Raises:
    ValueError: no words, or a sentence said with others.
  """
  pairs = [
    (a, b)
    for s, t in zip(said, true, strict=True)
    for a, b in zip(s, t, strict=True)
  ]
  if not pairs:
    raise ValueError("there is no word to evaluate on")
  found = {
    "word_accuracy": sum(a == b for a, b in pairs) / len(pairs),
    "words": float(len(pairs)),
  }
  if not are_entities([tag for pair in pairs for tag in pair]):
    return found
  both, told, meant = map(len, _entities(said, true))
  return found | _figures(both, told, meant)


def of_each(
  said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
  """Name, examples, precision, recall and F1 of each type, as JSON.

  Of entities, or of words where tags spell none; what would divide by nothing
  is left out.
  """
  flat = [tag for tags in (*said, *true) for tag in tags]
  if are_entities(flat):
    sets = _entities(said, true)
  else:
    sets = _words(said, true)
  rows = []
  for name in sorted({its[1] for s in sets for its in s}):
    both, told, meant = (sum(its[1] == name for its in s) for s in sets)
    rows.append(
      {
        "class": name,
        "examples": meant,
        "precision": both / told if told else None,
        "recall": both / meant if meant else None,
        "f1": 2 * both / (told + meant),
      }
    )
  return rows


def _entities(
  said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]
) -> tuple[set, set, set]:
  """Those both said and true, said, and true, each with its sentence."""
  told, meant = set(_numbered(said)), set(_numbered(true))
  return told & meant, told, meant


def _numbered(sentences: Sequence[Sequence[str]]) -> Iterator[tuple]:
  for i, tags in enumerate(sentences):
    yield from ((i, *entity) for entity in spelled(tags))


def _words(
  said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]
) -> tuple[set, set, set]:
  sets = [
    {(i, tag, n) for i, tags in enumerate(x) for n, tag in enumerate(tags)}
    for x in (said, true)
  ]
  return sets[0] & sets[1], sets[0], sets[1]


def _figures(both: int, told: int, meant: int) -> dict[str, float]:
  return {
    "precision": both / told if told else 0.0,
    "recall": both / meant if meant else 0.0,
    "f1": 2 * both / (told + meant) if both else 0.0,
  }
