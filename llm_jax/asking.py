"""How a run is asked: prompts as it was taught them, and where it stops."""

from collections.abc import Callable, Sequence
import itertools

from llm_jax.contracts import Batch, Tokenizer
from llm_jax.data import chat, instructions
from llm_jax.data.conversation import Message
from llm_jax.evaluation import divergence
from llm_jax.experiment import Asked, DataSettings, Experiment
from llm_jax.generation import decode
from llm_jax.generation.greedy import Answerer
from llm_jax.generation.text import Generator
from llm_jax.model import Model
from llm_jax.models.shape import Shape


def encoder(
  where: DataSettings, tokenizer: Tokenizer
) -> Callable[[str], Sequence[int]]:
  """Prompt -> ids: as a question, where the data are answers."""
  if isinstance(where, Asked):
    return instructions.encoder(where.template, tokenizer)
  return tokenizer.encode


def shown(where: DataSettings, prompt: str) -> str:
  """A prompt as it is printed: an answer begins on a line of its own."""
  side = getattr(where, "source", None)  # nothing goes on with a source
  is_apart = isinstance(where, Asked) or side is not None and side.length > 0
  return prompt + "\n" if is_apart else prompt


def stop_ids(where: DataSettings, tokenizer: Tokenizer) -> tuple[int, ...]:
  """Ids that end a text, or the answer in a chat template."""
  known = (tokenizer.eos_id, tokenizer.role_ids["end"])
  if not isinstance(where, Asked):
    return known
  turns = Message("user", "?"), Message("assistant", "!")
  template = chat.Template(where.template)
  ids, trained = chat.render(turns, tokenizer, template=template)
  *_, last = itertools.compress(ids, trained)
  return tuple(dict.fromkeys((*known, last)))


def texter(
  where: DataSettings, tokenizer: Tokenizer
) -> Callable[[Sequence[int]], str]:
  """Ids of an answer -> its text, without what ends it."""
  stop = stop_ids(where, tokenizer)
  return lambda ids: tokenizer.decode([i for i in ids if i not in stop])


def width(size: int) -> int:
  """To how many tokens so many are padded: a power of two, at least 8.

  What is padded alike is computed alike, whatever is beside it.
  """
  return 1 << max(size - 1, 7).bit_length()


def scored(
  shape: Shape,
  tokenizer: Tokenizer,
  prompts: Sequence[Sequence[int]],
  completions: Sequence[Sequence[int]],
  rows: int,
  length: int,
) -> Batch:
  """Prompts with their completions, as a model says how likely these are.

  Args:
    shape: of the model.
    tokenizer: text <-> ids.
    prompts: ids of each, as they begin a document.
    completions: ids of each, what ends them included.
    rows: B, at least as many.
    length: T of rows with both; sources and targets apart are as wide as need
      be.
  """
  if not shape.reads_sources:
    start_id = tokenizer.start_id
    return divergence.batch(prompts, completions, start_id, rows, length)
  sources = [decode.framed(ids, tokenizer, True) for ids in prompts]
  longest = (max(map(len, its)) for its in (sources, completions))
  # What is too long is so, and told by the model.
  S, T = (max(n, min(width(n), shape.max_length)) for n in longest)
  start_id = getattr(shape, "start_id", tokenizer.pad_id)
  return divergence.aside(sources, completions, start_id, rows, (S, T))


def generator(
  experiments: Sequence[Experiment],
  model: Model,
  tokenizer: Tokenizer,
  by_row: bool = False,
) -> Generator:
  """Prompts -> text.

  Args:
    experiments: by whose data and virtual tokens the prompts are read; of
      several, `Generator.stream` is told by number.
    model: the decoder.
    tokenizer: text <-> ids.
    by_row: each row has an adapter of its own.
  """
  stop = [i for e in experiments for i in stop_ids(e.data, tokenizer)]
  return Generator(
    tokenizer,
    model.decode_rows if by_row else model.decode,
    model.open_rows if by_row else model.open_cache,
    model.shape.max_length - max(e.peft.places for e in experiments),
    [encoder(e.data, tokenizer) for e in experiments],
    tuple(dict.fromkeys(stop)),
    apart=model.shape.reads_sources,
  )


def answerer(
  experiment: Experiment,
  model: Model,
  tokenizer: Tokenizer,
  where: DataSettings,
) -> Answerer:
  """Questions of some data as ids -> answers as ids, a batch at once."""
  return Answerer(
    tokenizer,
    model.decode,
    model.open_cache,
    model.shape.max_length - experiment.peft.places,
    experiment.batch_size,
    stop_ids(where, tokenizer),
    apart=model.shape.reads_sources,
  )
