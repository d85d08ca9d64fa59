"""Prompts -> text, streamed as it comes."""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import Any
import zlib

import jax
import numpy as np

from llm_jax import axes
from llm_jax.contracts import Tokenizer
from llm_jax.generation import decode as decode_lib
from llm_jax.ops.sampling import Sampler

CHUNK = 16  # tokens between looks at the text


class Generator:
  """Batches of ragged prompts, compiled once for each size of prompt.

  Args:
    tokenizer: text <-> ids.
    decode: the model, see `decode.Decode`.
    open_cache: (variables, rows, slots) -> a cache to fill.
    max_length: of prompt and new tokens together, of each where they are
      apart; virtual tokens not counted.
    encoders: prompt -> ids, for each model that `stream` may be told of; none
      = the tokenizer's.
    stop_ids: that end a row; none = the tokenizer's eos.
    apart: whether prompts are sources, which an encoder reads.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    decode: decode_lib.Decode,
    open_cache: Callable[[Any, int, int], Any],
    max_length: int,
    encoders: Sequence[Callable[[str], Sequence[int]]] = (),
    stop_ids: tuple[int, ...] = (),
    apart: bool = False,
  ):
    self._apart = apart
    self._tokenizer, self._max_length = tokenizer, max_length
    self._encoders = encoders or (tokenizer.encode,)

    @functools.partial(jax.jit, static_argnames=("slots",))
    def start(
      variables: Any, prompt_BP: Any, length_B: Any, keys_B: Any, slots: int
    ) -> Any:
      cache = open_cache(variables, prompt_BP.shape[0], slots)
      return decode_lib.prefill(
        decode, variables, prompt_BP, length_B, cache, keys_B
      )

    @functools.partial(jax.jit, static_argnames=("sampler",), donate_argnums=1)
    def go_on(variables: Any, progress: Any, sampler: Sampler) -> Any:
      progress, new = decode_lib.extend(
        decode,
        variables,
        progress,
        limit=CHUNK,
        sampler=sampler,
        stop_ids=stop_ids or (tokenizer.eos_id,),
        pad_id=tokenizer.pad_id,
      )
      # Whole on every device, so that each of several processes reads it.
      seen = (new.tokens_BT, new.length_B, progress.done_B)
      return progress, [axes.constrain(x, "_" * x.ndim) for x in seen]

    self._start, self._go_on = start, go_on

  def stream(
    self,
    variables: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    seed: int = 0,
    stop: Sequence[str] = (),
    models: Sequence[int] | None = None,
  ) -> Iterator[list[str]]:
    """Yields, again and again, what each row has gained since the last time.

    A row ends at a stop id, before a stop string, or after `max_new_tokens`.
    The same seed gives the same text, whatever else is in the batch. `models`
    numbers the model that answers each prompt, where rows have adapters of
    their own.

    Raises:
      ValueError: a prompt and its new tokens are longer than the model allows.
    """
    if not prompts:
      return
    asked = list(zip(prompts, models or [0] * len(prompts), strict=True))
    ids = [
      decode_lib.framed(self._encoders[m](p), self._tokenizer, self._apart)
      for p, m in asked
    ]
    longest = max(map(len, ids))
    if max_new_tokens > decode_lib.room(longest, self._max_length, self._apart):
      together = ": one of them is" if self._apart else " are together"
      raise ValueError(
        f"a prompt of {longest} tokens and"
        f" --samples.max_new_tokens={max_new_tokens}{together} longer"
        f" than the {self._max_length} that --model.max_length leaves"
      )
    width = _power_of_two(longest)
    prompt_BP = np.full((len(ids), width), self._tokenizer.pad_id, np.int32)
    for slots, known in zip(prompt_BP, ids, strict=True):
      slots[width - len(known) :] = known
    # The n-th copy of a prompt has the n-th key, wherever it stands, and has
    # it with each model.
    copies = [asked[:i].count(row) for i, row in enumerate(asked)]
    # Without the prompt in it, all prompts would be answered by one draw.
    hashes = [zlib.crc32(prompt.encode()) for prompt in prompts]
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    keys_B = jax.vmap(jax.random.fold_in)(
      fold(jax.random.key(seed), np.array(hashes, np.uint32)),
      np.array(copies, np.int32),
    )
    progress = self._start(
      variables,
      prompt_BP,
      np.array([len(i) for i in ids], np.int32),
      keys_B,
      slots=width + _power_of_two(max(max_new_tokens, CHUNK)),
    )
    rows = [_Row(self._tokenizer, stop) for _ in ids]
    left = max_new_tokens
    while left > 0 and not all(row.over for row in rows):
      progress, seen = self._go_on(variables, progress, sampler)
      tokens_BT, length_B, done_B = jax.device_get(seen)
      take = min(left, CHUNK)
      left -= take
      for row, tokens, n, done in zip(
        rows, tokens_BT, length_B, done_B, strict=True
      ):
        row.add(tokens[: min(n, take)], bool(done) or left <= 0)
      yield [row.take() for row in rows]

  def __call__(
    self, variables: Any, prompts: Sequence[str], **kwargs: Any
  ) -> list[str]:
    """Whole texts; arguments as those of `stream`."""
    texts = [""] * len(prompts)
    for news in self.stream(variables, prompts, **kwargs):
      texts = [a + b for a, b in zip(texts, news, strict=True)]
    return texts


class _Row:
  """The text of one row: cut at stop strings, whole characters only."""

  def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
    self._tokenizer, self._stop = tokenizer, [s for s in stop if s]
    self._ids: list[int] = []
    self._given, self.over = 0, False
    self._text = ""

  def add(self, ids: Sequence[int], last: bool) -> None:
    if self.over:
      return
    self._ids += [int(i) for i in ids]
    text = self._tokenizer.decode(self._ids)
    if not last:  # the end may be half a character
      text = text.rstrip("\ufffd")
    # The first to be whole, as if each character were looked at as it came.
    found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
    if found:
      text, last = text[: min(found)[1]], True
    self.over = last
    if not last:  # the end may be half a stop string
      held = max(
        (
          n
          for s in self._stop
          for n in range(1, len(s))
          if text.endswith(s[:n])
        ),
        default=0,
      )
      text = text[: len(text) - held]
    self._text = text

  def take(self) -> str:
    new, self._given = self._text[self._given :], len(self._text)
    return new


def _power_of_two(n: int) -> int:
  return 1 << max(n - 1, 7).bit_length()
