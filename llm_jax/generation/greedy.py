"""Questions as ids -> the likeliest answers, or drawn ones, as ids."""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import Any

import jax
import numpy as np

from llm_jax import axes
from llm_jax.contracts import Tokenizer
from llm_jax.generation import decode as decode_lib
from llm_jax.ops.sampling import Sampler


class Answerer:
  """A token after the other, the likeliest or a drawn one, until the end.

  Args:
    tokenizer: names the ids that begin a document and fill a row.
    decode: the model, see `decode.Decode`.
    open_cache: (variables, rows, slots) -> a cache to fill.
    max_length: of question and answer together, of each where they are apart;
      virtual tokens not counted.
    rows: answered at once.
    stop_ids: that end an answer.
    sampler: how a token is chosen; the likeliest, if not given.
    seed: of what is drawn.
    apart: whether questions are sources, which an encoder reads.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    decode: decode_lib.Decode,
    open_cache: Callable[[Any, int, int], Any],
    max_length: int,
    rows: int,
    stop_ids: tuple[int, ...],
    sampler: Sampler | None = None,
    seed: int = 0,
    apart: bool = False,
  ):
    self._apart = apart
    self._frame = lambda ids: decode_lib.framed(ids, tokenizer, apart)
    self._start_id, self._pad_id = tokenizer.start_id, tokenizer.pad_id
    self._max_length, self._rows = max_length, rows
    self._stop_ids, self._key = stop_ids, jax.random.key(seed)

    @functools.partial(jax.jit, static_argnames=("limit",))
    def answer(
      variables: Any, prompt_BP: Any, length_B: Any, key: Any, limit: int
    ) -> list[jax.Array]:
      slots = prompt_BP.shape[1] + limit
      out = decode_lib.rollout(
        decode,
        variables,
        prompt_BP,
        length_B,
        open_cache(variables, rows, slots),
        key,
        limit=limit,
        sampler=sampler or Sampler(temperature=0.0),
        stop_ids=self._stop_ids,
      )
      # Whole on every device, so that each of several processes reads it.
      return [
        axes.constrain(x, "_" * x.ndim) for x in (out.tokens_BT, out.length_B)
      ]

    self._answer = answer

  def __call__(
    self,
    variables: Any,
    questions: Sequence[Sequence[int]],
    limit: int,
    whole: bool = False,
  ) -> Iterator[list[int]]:
    """Yields the answer to each question, without what ends it.

    An answer also ends where the model can read no more.

    Args:
      variables: of the model.
      questions: ids of each, as they begin a document.
      limit: tokens of an answer, at most.
      whole: with what ends it, where it does end.

    Raises:
      ValueError: a question is longer than the model allows.
    """
    if not questions:
      return
    questions = [self._frame(ids) for ids in questions]
    longest = max(map(len, questions))
    if longest > self._max_length:
      raise ValueError(
        f"a question of {longest} tokens is longer than the {self._max_length}"
        " that --model.max_length leaves"
      )
    for at in range(0, len(questions), self._rows):
      asked = questions[at : at + self._rows]
      prompt_BP = np.full((self._rows, longest), self._pad_id, np.int32)
      length_B = np.ones(self._rows, np.int32)
      prompt_BP[:, -1] = self._start_id  # rows that nobody asked for
      for i, known in enumerate(asked):
        prompt_BP[i, longest - len(known) :] = known
        length_B[i] = len(known)
      key = jax.random.fold_in(self._key, at)
      found = self._answer(variables, prompt_BP, length_B, key, limit=limit)
      tokens_BT, lengths = jax.device_get(found)
      # The last token needs no place: it is never read.
      rooms = [
        decode_lib.room(int(n), self._max_length, self._apart)
        + (not self._apart)
        for n in length_B
      ]
      lengths = np.minimum(lengths, rooms)
      for tokens, n in zip(tokens_BT[: len(asked)], lengths, strict=False):
        ids = tokens[:n].tolist()
        yield [t for t in ids if whole or t not in self._stop_ids]
