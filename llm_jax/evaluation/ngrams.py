"""What a number is worth: a unigram and a Kneser-Ney 5-gram on the same tokens.

Both read the text as one stream, documents parted by their eos, as a model
that reads concatenated rows does.

Dimension key: n tokens of a text; V vocabulary.
"""

import math

import numpy as np

from llm_jax.evaluation.likelihood import summary


def unigram(
  train_ids: np.ndarray,
  test_ids: np.ndarray,
  vocab_size: int,
  token_bytes: np.ndarray,
) -> dict[str, float]:
  """Relative frequencies, one added to each: p(v) = (c(v) + 1) / (n + V)."""
  counts = np.bincount(train_ids, minlength=vocab_size)
  p_V = (counts + 1) / (counts.sum() + vocab_size)
  hits = (test_ids == p_V.argmax()).sum()
  return _measures(np.log(p_V[test_ids]), hits, test_ids, token_bytes)


class KneserNey:
  """Interpolated Kneser-Ney (Chen and Goodman 1998, eq. 22 to 24).

    p(w | h) = max(c(h w) - D, 0) / c(h .) + D N(h .) / c(h .) p(w | h')

  c are counts at the highest order and numbers of distinct left contexts
  below it; N(h .) is how many words follow h; h' drops h's first word. One
  discount an order, D = n1 / (n1 + 2 n2), and 1/2 where no k-gram stands once
  (n1 = 0). The unigram is interpolated with the uniform distribution, so that
  every token has a probability.

  Args:
    ids: [n] the training text.
    vocab_size: V.
    order: longest n-gram.
  """

  def __init__(self, ids: np.ndarray, vocab_size: int, order: int = 5):
    self._order, self._vocab = order, vocab_size
    V, ids = vocab_size, np.asarray(ids, np.int64)
    if len(ids) <= order:
      raise ValueError(f"{len(ids)} tokens are too few for {order}-grams")
    # The k-gram that starts at each position has a number; table k - 2 holds,
    # by number, (number of its first k - 1 tokens) * V + last token.
    self._tables: list[np.ndarray] = []
    self._levels: list[_Level] = []
    numbered = [ids]
    for k in range(2, order + 1):
      pair = numbered[-1][:-1] * V + ids[k - 1 :]
      table, numbers = np.unique(pair, return_inverse=True)
      self._tables.append(table)
      numbered.append(numbers)
    for k in range(1, order + 1):
      size = V if k == 1 else len(self._tables[k - 2])
      if k == order:
        counts = np.bincount(numbered[k - 1], minlength=size)
      else:
        # Distinct (k+1)-grams whose last k tokens are this k-gram.
        longer = numbered[k]
        first = _first_of_each(longer, len(self._tables[k - 1]))
        counts = np.bincount(numbered[k - 1][first + 1], minlength=size)
      table = np.arange(V) if k == 1 else self._tables[k - 2]
      context = table // V
      contexts = 1 if k == 1 else (V if k == 2 else len(self._tables[k - 3]))
      total = np.bincount(context, counts, minlength=contexts)
      follow = np.bincount(context, counts > 0, minlength=contexts)
      n1, n2 = (counts == 1).sum(), (counts == 2).sum()
      discount = n1 / (n1 + 2 * n2) if n1 else 0.5
      self._levels.append(_Level(counts, total, follow, discount))

  def probability(self, ids: np.ndarray) -> np.ndarray:
    """p(token | the tokens before it in `ids`), shape [n], float64."""
    ids = np.asarray(ids, np.int64)
    V, n = self._vocab, len(ids)
    p = np.full(n, 1 / V)
    for k, level in enumerate(self._levels, 1):
      # The k-gram that ends at each position, and its context; -1 = unseen.
      at = np.arange(k - 1, n)
      context = np.zeros(len(at), np.int64)
      for j in range(k - 1):
        token = ids[at - (k - 1) + j]
        context = token if j == 0 else self._find(j + 1, context, token)
      gram = ids[at] if k == 1 else self._find(k, context, ids[at])
      known = context >= 0
      known[known] = level.total[context[known]] > 0
      count = np.where(gram >= 0, level.counts[gram], 0)[known]
      total = level.total[context[known]]
      lower = p[at][known]
      kept = np.maximum(count - level.discount, 0) / total
      spread = level.discount * level.follow[context[known]] / total
      p[at[known]] = kept + spread * lower
    return p

  def evaluate(
    self, ids: np.ndarray, token_bytes: np.ndarray
  ) -> dict[str, float]:
    """Loss, perplexity and bits per byte; token accuracy is not computed."""
    out = _measures(np.log(self.probability(ids)), 0, ids, token_bytes)
    del out["token_accuracy"]
    return out

  def _find(self, k: int, prefix: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Numbers of k-grams, -1 where never seen."""
    table = self._tables[k - 2]
    pair = np.where(prefix >= 0, prefix * self._vocab + token, -1)
    at = np.minimum(np.searchsorted(table, pair), len(table) - 1)
    return np.where(table[at] == pair, at, -1)


class _Level:
  """Counts of one order."""

  def __init__(
    self,
    counts: np.ndarray,
    total: np.ndarray,
    follow: np.ndarray,
    discount: float,
  ):
    self.counts, self.total = counts, total
    self.follow, self.discount = follow, discount


def _first_of_each(numbers: np.ndarray, size: int) -> np.ndarray:
  """A position at which each number stands."""
  at = np.zeros(size, np.int64)
  at[numbers] = np.arange(len(numbers))
  return at


def _measures(
  logp: np.ndarray, hits: float, ids: np.ndarray, token_bytes: np.ndarray
) -> dict[str, float]:
  total = math.fsum(logp.tolist())
  return summary(-total, float(hits), len(ids), float(token_bytes[ids].sum()))
