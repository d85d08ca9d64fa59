"""How many of the spans that were taken out of a text are told exactly."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from llm_jax.contracts import Tokenizer
from llm_jax.data import corruption
from llm_jax.data.corruption import Pair
from llm_jax.evaluation import exact_match

Answer = Callable[[Any, Sequence[Sequence[int]], int], Iterator[list[int]]]


def measure(
  gaps: Sequence[Pair],
  answer: Answer,
  variables: Any,
  tokenizer: Tokenizer,
  progress: Callable[[Iterator[list[int]]], Iterator[list[int]]],
) -> dict[str, float]:
  """Share of spans in the very words of the text, each after its sentinel.

  Args:
    gaps: sources, and targets with spans.
    answer: (variables, ids of sources, tokens at most) -> what is written.
    variables: of the model.
    tokenizer: whose sentinels tell which span is which.
    progress: what wraps the answers, for a bar.

  Returns:
    exact_match   share of spans
    questions     spans that were to be told
    most_frequent share that who always tells the most frequent one has
  """
  longest = max(len(pair.target) for pair in gaps)
  sources = [pair.source.tolist() for pair in gaps]
  answers = progress(answer(variables, sources, longest))
  sentinels = tokenizer.marks.sentinels
  said, meant = [], []
  text = lambda ids: tokenizer.decode(ids.tolist())
  for pair, ids in zip(gaps, answers, strict=True):
    written = corruption.told(np.array(ids, np.int32), sentinels)
    for mark, span in corruption.told(pair.target[:-1], sentinels).items():
      if len(span):  # not behind the last one
        meant.append(text(span))
        said.append(text(written.get(mark, span[:0])))
  often = Counter(text.strip() for text in meant).most_common(1)
  return exact_match.evaluate(said, meant) | {
    "most_frequent": often[0][1] / len(meant)
  }
