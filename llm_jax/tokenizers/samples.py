"""Texts that two forms of one tokenizer must encode alike, and what that is."""

from collections.abc import Callable, Sequence

SAMPLES = (
  "",
  " two  spaces, a\ttab\nand lines\r\n",
  "def f(x: int) -> str:\n    return f'{x:>10}'  # 3.14159",
  "na\u00efve caf\u00e9 \u4f60\u597d \U0001f600 \u0416\u0443\u043a e\u0301",
  "1234567890 a_b-c THE The the",
)

_ROUNDING = 1e-5  # of a score in float32, as SentencePiece adds them


def alike(
  ids: Sequence[int],
  others: Sequence[int],
  score: Callable[[int], float] | None,
) -> bool:
  """Whether two lists of ids are the same cut of a text.

  Of a unigram model, whose text is cut where that is likeliest, two cuts may be
  equally likely, as of a run of one character; which is taken is a matter of
  rounding. These count as the same.

  Args:
    ids: of the text.
    others: of the same text.
    score: of an id, log p, where it is of a unigram model.
  """
  if list(ids) == list(others) or score is None:
    return list(ids) == list(others)
  one, other = (sum(score(i) for i in its) for its in (ids, others))
  return abs(one - other) <= _ROUNDING * max(abs(one), 1.0)
