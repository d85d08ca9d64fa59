"""Where words begin, for any tokenizer, as far as its ids tell."""

import functools

import numpy as np

from llm_jax.contracts import Marks, Tokenizer

_BEFORE = "a"  # what an id is read behind, as some write a first one otherwise
_IDEOGRAPHS = (  # each is a word
  ("\u3040", "\u30ff"),
  ("\u3400", "\u9fff"),
  ("\uf900", "\ufaff"),
  ("\U00020000", "\U0003ffff"),
)
_PART = "\ufffd"  # some bytes of a character


class Vocabulary:
  """What taking text away reads of a tokenizer, made when it is asked."""

  def __init__(self, tokenizer: Tokenizer):
    self.tokenizer = tokenizer

  @functools.cached_property
  def text_ids(self) -> np.ndarray:
    """Ids that stand for text."""
    return np.flatnonzero(self._is_text_V)

  @property
  def marks(self) -> Marks:
    """Ids that stand for what is taken away."""
    return self.tokenizer.marks

  def tokens(self, ids: np.ndarray) -> np.ndarray:
    """Each id a unit, -1 where it stands for no text."""
    return np.where(self._is_text_V[ids], np.arange(len(ids)), -1)

  def words(self, ids: np.ndarray, begins_T: np.ndarray) -> np.ndarray:
    """The word of each id, -1 where it stands for no text.

    Letters, digits and underscores that follow each other are a word, with
    what stands before the first of them in its id; all else is a word an id.

    Args:
      ids: [T].
      begins_T: where another text begins.
    """
    first_V, last_V = self._ends
    goes_on_T = np.zeros(len(ids), bool)
    goes_on_T[1:] = first_V[ids[1:]] & last_V[ids[:-1]] & ~begins_T[1:]
    word_T = np.cumsum(~goes_on_T)
    return np.where(self._is_text_V[ids], word_T, -1)

  @functools.cached_property
  def _is_text_V(self) -> np.ndarray:
    return self.tokenizer.token_bytes() > 0

  @functools.cached_property
  def _ends(self) -> tuple[np.ndarray, np.ndarray]:
    """Whether an id's first and last character may be within a word, [V]."""
    decode = self.tokenizer.decode
    before = self.tokenizer.encode(_BEFORE)
    start = len(decode(before))
    size = len(self._is_text_V)
    first_V, last_V = np.zeros(size, bool), np.zeros(size, bool)
    for i in self.text_ids.tolist():
      text = decode([*before, i])[start:]
      if text:
        first_V[i], last_V[i] = map(_is_within, (text[0], text[-1]))
    return first_V, last_V


def _is_within(character: str) -> bool:
  if character in (_PART, "_"):
    return True
  is_alone = any(a <= character <= b for a, b in _IDEOGRAPHS)
  return character.isalnum() and not is_alone
