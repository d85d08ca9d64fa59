"""Prompts of data or of a file, as a run is asked them."""

from collections.abc import Iterator, Sequence
import json
from typing import Any, NamedTuple

import numpy as np

from llm_jax import build, verbs
from llm_jax.contracts import Tokenizer
from llm_jax.data import chat, conversation_tokens, splits
from llm_jax.data.conversation import Conversation, Message
from llm_jax.experiment import Asked, DataSettings, Experiment
from llm_jax.reporting.progress import say


class Prompt(NamedTuple):
  """What is asked."""

  key: str  # of the journal
  messages: tuple[Message, ...]
  ids: list[int]
  reference: str | None = None
  place: float | None = None
  task: str = ""


def find(
  experiment: Experiment,
  data: DataSettings,
  tokenizer: Tokenizer,
  prompts_file: str | None,
) -> Iterator[Prompt]:
  """Each prompt once, if there is room for its answer.

  Args:
    experiment: of the run that is asked.
    data: whose prompts, unless a file has them.
    tokenizer: the run's.
    prompts_file: a prompt a line.

  Raises:
    ValueError: there is none, or one of the file is empty or too long.
  """
  asked = _asked(experiment, data, tokenizer, prompts_file)
  once: dict[Any, Conversation] = {}
  for c in asked:
    once.setdefault(c.question.messages, c)
  chosen = list(once.values())
  if experiment.label.prompts:
    chosen = chosen[: experiment.label.prompts]
  ids = _encode(experiment, tokenizer, [c.question for c in chosen])
  room = experiment.model.max_length - experiment.peft.places
  new = experiment.samples.max_new_tokens
  long = 0
  for c, known in zip(chosen, ids, strict=True):
    if 1 + len(known) + new > room:
      long += 1
      continue
    messages = c.question.messages
    reference = c.answer if prompts_file is None else None
    key = json.dumps([messages, reference])
    yield Prompt(key, messages, known, reference, c.place, c.task)
  if long:
    said = (
      f"{long} of {len(chosen)} prompts leave no room for"
      f" --samples.max_new_tokens={new} in --model.max_length"
      f"={experiment.model.max_length}"
    )
    if long == len(chosen) or prompts_file is not None:
      raise ValueError(said)
    say(f"{said}; they are left out")


def _asked(
  experiment: Experiment,
  data: DataSettings,
  tokenizer: Tokenizer,
  prompts_file: str | None,
) -> Iterator[Conversation]:
  """Prompts with an answer to each, which is empty where none is known."""
  if prompts_file is not None:
    for line in verbs.lines(prompts_file):
      yield Conversation((Message("user", line), Message("assistant", "")))
    return
  tokens: Any = build.tokens(data, tokenizer)
  wanted, found = experiment.label.split, []
  for split in splits.SPLITS if wanted == "all" else [wanted]:
    try:
      found += [e.conversation for e in tokens.examples(split)]
    except ValueError:  # it is empty
      if wanted != "all":
        raise
  if not found:
    raise ValueError("--data: holds no prompt")
  # Any beginning is a fair sample, of all splits.
  for i in np.random.default_rng(0).permutation(len(found)).tolist():
    yield found[i]


def _encode(
  experiment: Experiment,
  tokenizer: Tokenizer,
  questions: Sequence[Conversation],
) -> list[list[int]]:
  """Ids of each up to where its answer begins, as the run was trained."""
  where = experiment.data
  if isinstance(where, Asked):
    template = chat.Template(where.template)
    return conversation_tokens.beginning(list(questions), tokenizer, template)
  texts = ["\n".join(m.content for m in q.messages) for q in questions]
  return tokenizer.encode_batch(texts)
