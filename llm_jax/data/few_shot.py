"""Examples shown before a question, as earlier turns of its conversation."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import random

from llm_jax.data.conversation import Conversation, Message

_TRIES = 64  # looks at the pool for each example, before all of it is shuffled


def show(
  question: Conversation, pool: Sequence[Conversation], count: int
) -> Conversation:
  """The question after `count` answered ones of the same task.

  Which ones is decided by the question's own text, whatever else is asked.
  What another conversation's system says is left out.

  Args:
    question: ends before the answer.
    pool: to choose from; those that ask the same are passed over.
    count: how many; 0 changes nothing.

  Raises:
    ValueError: the pool has too few of the task.
  """
  r = random.Random(question.to_json())
  tries = min(len(pool), _TRIES * count)
  first = r.sample(range(len(pool)), tries)
  fit = (
    c
    for c in (pool[i] for i in _order(first, len(pool), r))
    if c.task == question.task and _said(c.question) != _said(question)
  )
  shown = list(itertools.islice(fit, count))
  if len(shown) < count:
    raise ValueError(
      f"{count} examples to show: the train split has {len(shown)} of"
      f" {question.task or 'this source'}"
    )
  system = [m for m in question.messages if m.role == "system"]
  turns = [m for c in shown for m in _said(c)]
  messages = (*system, *turns, *_said(question))
  return dataclasses.replace(question, messages=messages)


def _order(first: list[int], size: int, r: random.Random) -> Iterator[int]:
  """Each place once: the first ones, then, if need be, all others."""
  yield from first
  others = sorted(set(range(size)) - set(first))
  r.shuffle(others)
  yield from others


def _said(conversation: Conversation) -> list[Message]:
  return [m for m in conversation.messages if m.role != "system"]
