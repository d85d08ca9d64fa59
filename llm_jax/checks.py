"""What can be seen to be wrong before anything is made."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

import jax

from llm_jax import naming
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Tokenizer
from llm_jax.data.arrays import Arrays
from llm_jax.data.denoisers import Masked, Plain
from llm_jax.data.examples import Examples
from llm_jax.data.instructions import Instructed, Instructions
from llm_jax.data.preferences import Preferences
from llm_jax.data.text import Text
from llm_jax.experiment import Asked, Experiment, Judges, Marks
from llm_jax.judges.endpoint import Endpoint
from llm_jax.judges.rubric import Rubric
from llm_jax.models.shape import Shape
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.pairwise import Pairwise
from llm_jax.objectives.ppo import PPO
from llm_jax.peft.prompts import Prefix


def settings(experiment: Experiment) -> None:
  """ValueError where settings fit neither each other nor this machine."""
  _reads(experiment)
  _refreshes(experiment)
  _plays(experiment)
  _carries(experiment)
  _sources(experiment)
  _sees(experiment)
  if experiment.value_from and not experiment.objective.needs_critic:
    name = type(experiment.objective).__name__
    raise ValueError(
      f"--value_from={experiment.value_from}: {name} has no critic of its own"
    )
  shape, samples = experiment.model, experiment.samples
  longest = shape.max_length
  if experiment.data.length > longest:
    raise ValueError(
      f"--data.length={experiment.data.length}: longer than"
      f" --model.max_length={longest}"
    )
  places = experiment.peft.places
  if experiment.data.length + places > longest:
    raise ValueError(
      f"--peft.tokens={places}: with --data.length={experiment.data.length}"
      f" longer than --model.max_length={longest}"
    )
  if samples.every and samples.prompts and samples.max_new_tokens >= longest:
    raise ValueError(
      f"--samples.max_new_tokens={samples.max_new_tokens}: leaves no place for"
      f" a prompt in --model.max_length={longest}; --samples.every=0 = none"
    )
  if shape.dtype == "float64" and not jax.config.jax_enable_x64:
    raise ValueError(
      "--model.dtype=float64: JAX would compute in float32 unless"
      " JAX_ENABLE_X64=1 is set in the environment"
    )


def _reads(experiment: Experiment) -> None:
  """ValueError where the objective cannot read the data's rows."""
  objective, data = experiment.objective, experiment.data
  name = type(objective).__name__
  rows, together = "text", 1
  if experiment.draws_pairs and "pairs" not in objective.reads:
    raise ValueError(
      f"--rollouts.pair_of={experiment.rollouts.pair_of}: {name} reads no pairs"
    )
  if experiment.draws:
    _draws(experiment)
    return
  if isinstance(data, Preferences):
    rows, together = data.rows, data.rows_together
    if rows == "answers" and experiment.self_play.max_new_tokens:
      rows = "pairs"
  if isinstance(data, Examples | Marks):
    rows = data.rows
  if rows not in objective.reads:
    kind = type(data).__name__
    by_rows = together > 1 or isinstance(data, Examples)
    given = f"--data.rows={rows}" if by_rows else f"--data ({kind})"
    wanted = " or ".join(objective.reads)
    raise ValueError(f"{given}: {name} reads {wanted}, not {rows}")
  if together != objective.rows_together:
    raise ValueError(
      f"--objective.completions={objective.rows_together}: the data have"
      f" {together} rows of each prompt"
    )
  outputs = experiment.model.outputs
  if outputs != 1 and "rankings" in objective.reads:
    raise ValueError(f"--model.outputs={outputs}: a reward model needs 1")
  if isinstance(data, Preferences) and rows == "classes":
    naming.classes(experiment, data.classes)
  if isinstance(data, Examples):
    naming.examples(experiment, data)
  if isinstance(data, Marks):
    naming.marks(experiment, data)


def _sources(experiment: Experiment) -> None:
  """ValueError where nothing reads sources that rows have."""
  if experiment.model.reads_sources:
    _reads_sources(experiment)
    return
  for flag, where in _every(experiment).items():
    source = getattr(where, "source", None)
    if source is not None and source.length:
      raise ValueError(
        f"--{flag}.source.length={source.length}: the model is a decoder alone;"
        " 0 = it reads the source before the target"
      )


def _every(experiment: Experiment) -> dict[str, Any]:
  """Flag -> data, of the run and to be measured on."""
  others = enumerate(experiment.evaluations)
  named = {f"evaluations.{i}.data": e.data for i, e in others}
  return {"data": experiment.data, **named}


def _reads_sources(experiment: Experiment) -> None:
  """ValueError where an encoder has no source, or cannot read it."""
  if experiment.draws:
    name = type(experiment.objective).__name__
    raise ValueError(
      f"--objective ({name}): learns from what a decoder alone draws, not an"
      " encoder-decoder"
    )
  for flag, where in _every(experiment).items():
    source = getattr(where, "source", None)
    what = getattr(where, "corruption", where)
    if source is None or isinstance(what, Plain | Masked):
      raise ValueError(
        f"--{flag} ({type(what).__name__}): its rows have no source for an"
        " encoder-decoder to read; Text whose corruption is Spans, PrefixLM or"
        " Mixture, Instructions, Preferences, Examples, Tags or Passages"
      )
    if not source.length:
      raise ValueError(
        f"--{flag}.source.length=0: an encoder-decoder reads a source of its"
        " own; its length in tokens"
      )
    longest = experiment.model.max_length
    if source.length > longest:
      raise ValueError(
        f"--{flag}.source.length={source.length}: longer than"
        f" --model.max_length={longest}"
      )
  if experiment.peft.places or isinstance(experiment.peft, Prefix):
    raise ValueError(
      f"--peft ({type(experiment.peft).__name__}): virtual tokens are not for"
      " encoder-decoders; LoRA, IA3, BitFit, Bottlenecks or Select are"
    )


def starts(experiment: Experiment, shape: Shape, tokenizer: Tokenizer) -> None:
  """ValueError where targets of rows begin otherwise than the model's do.

  Args:
    experiment: whose rows.
    shape: of the model, its ids filled in.
    tokenizer: says which ids rows have.
  """
  if not shape.reads_sources:
    return
  wanted = getattr(shape, "start_id", None)
  for flag, where in _every(experiment).items():
    side = getattr(where, "source", None)
    if side is None or not side.length:
      continue
    found = side.start_id(tokenizer)
    if found != wanted:
      names = ("pad", "bos", "eos")
      fits = [n for n in names if getattr(tokenizer, f"{n}_id") == wanted]
      raise ValueError(
        f"--{flag}.source.start={side.start}: is the id {found}, and targets of"
        f" the model begin with {wanted} (--model.start_id)"
        + "".join(f", which is {name}" for name in fits[:1])
      )


def first(shape: Shape) -> None:
  """ValueError where rows that are learned lack what is written first."""
  its = getattr(shape, "first_id", -1)
  if its >= 0:
    raise ValueError(
      f"--model.first_id={its}: targets of rows do not begin with it;"
      " --model.first_id=-1 trains, and then writes, without it"
    )


def _sees(experiment: Experiment) -> None:
  """ValueError where a position sees its target, or less than it could."""
  sees = getattr(experiment.model, "sees", "before")
  objective, samples = experiment.objective, experiment.samples
  others = enumerate(experiment.evaluations)
  every = {"data": experiment.data}
  every |= {f"evaluations.{i}.data": e.data for i, e in others}
  for flag, where in every.items():
    kind = type(getattr(where, "corruption", where)).__name__
    if kind == "Masked" and not hasattr(experiment.model, "sees"):
      raise ValueError(
        f"--{flag} (Masked): what is hidden where it stands is told from both"
        f" sides, and {experiment.model.kind} models see what came before;"
        " Spans, PrefixLM or Mixture"
      )
    if sees != "all" and kind == "Masked":
      raise ValueError(
        f"--model.sees={sees}: what is hidden where it stands (--{flag}) is"
        " told from both sides; all"
      )
    reads = isinstance(where, Text | Instructions | Arrays)
    if sees == "all" and reads and kind != "Masked":
      raise ValueError(
        f"--model.sees=all: a position sees the next token, which --{flag}"
        f" ({kind}) has it tell; before or prefix, or a corruption of Masked"
      )
  if sees == "all" and isinstance(objective, Pairwise | KTO):
    raise ValueError(
      "--model.sees=all: a position sees the next token, which"
      f" {type(objective).__name__} asks how likely it is; before or prefix"
    )
  if sees == "all" and samples.every:
    raise ValueError(
      f"--samples.every={samples.every}: an encoder (--model.sees=all) goes on"
      " with no text; 0 = no samples"
    )
  if sees == "prefix" and getattr(objective, "prompt_weight", 0):
    raise ValueError(
      "--objective.prompt_weight: with --model.sees=prefix a prompt's tokens"
      " see each other, and are not told; 0"
    )


def _draws(experiment: Experiment) -> None:
  """ValueError where a policy cannot draw, or nobody can learn from it."""
  data, drawn = experiment.data, experiment.rollouts
  name = type(experiment.objective).__name__
  if not isinstance(data, Asked):
    raise ValueError(
      f"--data ({type(data).__name__}): {name} needs prompts, of instructions"
      " or preferences"
    )
  sees = getattr(experiment.model, "sees", "before")
  if sees != "before":
    raise ValueError(
      f"--model.sees={sees}: {name} learns from what it draws, where a token"
      " sees what came before; before"
    )
  if isinstance(experiment.objective, PPO) and experiment.model.outputs != 1:
    raise ValueError(
      f"--model.outputs={experiment.model.outputs}: PPO's critic needs 1"
    )
  group, pairs = experiment.group, experiment.draws_pairs
  flag = "rollouts.pair_of" if pairs else "objective.completions"
  if drawn.batch % group:
    raise ValueError(
      f"--rollouts.batch={drawn.batch}: not divisible by --{flag}={group}"
    )
  if experiment.learned % experiment.batch_size:
    of = f", {experiment.learned} rows of pairs" if pairs else ""
    raise ValueError(
      f"--rollouts.batch={drawn.batch}{of}: not divisible by"
      f" --batch_size={experiment.batch_size}"
    )
  if drawn.target_kl is not None and pairs:
    raise ValueError(
      f"--rollouts.target_kl={drawn.target_kl}: {name} does not tell how far it"
      " is from where its completions were drawn; none = each update is whole"
    )
  if experiment.reference == "once":
    raise ValueError(
      "--reference=once: cannot be where a policy draws, as what is drawn is"
      " new at each update"
    )
  if drawn.drawings > 1 and group == 1:
    raise ValueError(
      f"--rollouts.drawings={drawn.drawings}: {name} draws one completion of a"
      " prompt, and none beside it that could score the same"
    )
  if group == 1 and _only_orders(experiment.judge):
    raise ValueError(
      f"--judge ({type(experiment.judge).__name__}): says which completion of a"
      f" prompt is better and not how good it is, and {name} draws one alone"
    )
  overlong = experiment.shaping.overlong
  if overlong > drawn.max_new_tokens:
    raise ValueError(
      f"--shaping.overlong={overlong}: more than"
      f" --rollouts.max_new_tokens={drawn.max_new_tokens}"
    )
  places = experiment.peft.places
  longest = drawn.max_prompt + drawn.max_new_tokens + places
  if longest > experiment.model.max_length:
    soft = f" and --peft.tokens={places}" if places else ""
    raise ValueError(
      f"--rollouts.max_prompt={drawn.max_prompt} and"
      f" --rollouts.max_new_tokens={drawn.max_new_tokens}{soft}: together"
      f" longer than --model.max_length={experiment.model.max_length}"
    )


def _only_orders(judge: Judges) -> bool:
  """Whether it knows no more than which completions are better."""
  pairs = isinstance(judge, Endpoint) and judge.ask == "pairs"
  return pairs or isinstance(judge, Rubric)


def _refreshes(experiment: Experiment) -> None:
  """ValueError where there is no reference to refresh."""
  given = f"--refresh.every={experiment.refresh.every}"
  if not experiment.refresh.every:
    return
  if not experiment.objective.needs_reference:
    name = type(experiment.objective).__name__
    raise ValueError(f"{given}: {name} asks no reference")
  if experiment.reference == "once":
    raise ValueError(
      f"{given}: cannot be with --reference=once, as the reference changes"
    )


def _plays(experiment: Experiment) -> None:
  """ValueError where self-play has no pairs, or nobody to draw them."""
  new, objective = experiment.self_play.max_new_tokens, experiment.objective
  if not new:
    return
  given, name = f"--self_play.max_new_tokens={new}", type(objective).__name__
  if experiment.draws:
    raise ValueError(
      f"{given}: both completions of a pair are drawn and judged, so there is"
      " none for an opponent to draw"
    )
  if "pairs" not in objective.reads:
    raise ValueError(f"{given}: {name} reads no pairs")
  if getattr(experiment.data, "packing", "one") != "one":
    raise ValueError(f"{given}: needs --data.packing=one, a pair in two rows")
  if not objective.needs_reference:
    raise ValueError(f"{given}: {name} asks no reference, which is to draw")
  if experiment.reference == "once":
    raise ValueError(
      f"{given}: cannot be with --reference=once, as what is drawn is new at"
      " each step"
    )


def _carries(experiment: Experiment) -> None:
  """ValueError where what is modelled beside what is drawn cannot be."""
  longest = experiment.model.max_length - experiment.peft.places
  for i, its in experiment.beside.items():
    if not experiment.draws:
      name = type(experiment.objective).__name__
      raise ValueError(
        f"--ptx.{i}.weight={its.weight}: {name} draws nothing that it could"
        " stand beside; 0 = it is not read"
      )
    if its.data.length > longest:
      raise ValueError(
        f"--ptx.{i}.data.length={its.data.length}: longer than"
        f" --model.max_length={experiment.model.max_length} has room for"
      )


def one_answer(experiment: Experiment, tokens: Any) -> None:
  """ValueError where a conversation's later prompt would see less than asked.

  Who is asked reads all that was said before as one prompt, which sees itself
  whole. In training only the first prompt may, as a later one has read the
  answers that are trained.

  Args:
    experiment: to be trained.
    tokens: of its data.
  """
  if getattr(experiment.model, "sees", "before") != "prefix":
    return
  count = tokens.several() if isinstance(tokens, Instructed) else 0
  if count:
    raise ValueError(
      f"--model.sees=prefix: {count} conversations of --data have several"
      " answers, and only the first prompt of one is seen whole in training;"
      " give conversations of one answer, or --model.sees=before"
    )


def prompts(
  experiment: Experiment,
  shape: Shape,
  encode: Callable[[str], Sequence[int]],
  given: Sequence[str] | None = None,
) -> None:
  """ValueError where a prompt (None: the samples') leaves too little place."""
  samples, places = experiment.samples, experiment.peft.places
  longest = shape.max_length
  flag = "--samples.prompts" if given is None else "--prompt"
  for prompt in samples.prompts if given is None else given:
    try:
      size = len(encode(prompt)) + 1
    except ValueError as e:
      raise ValueError(f"{flag}={prompt[:30]!r}: {e}") from e
    new = samples.max_new_tokens
    if shape.reads_sources and (size > longest or new > longest):
      raise ValueError(
        f"{flag}={prompt[:30]!r}: {size} tokens, or"
        f" --samples.max_new_tokens={new}: longer than"
        f" --model.max_length={longest}"
      )
    if not shape.reads_sources and places + size + new > longest:
      soft = f" after {places} virtual ones" if places else ""
      raise ValueError(
        f"{flag}={prompt[:30]!r}: {size} tokens{soft}, which with"
        f" --samples.max_new_tokens={new} is longer than"
        f" --model.max_length={longest}"
      )


def checkpoint(folder: pathlib.Path, step: int | None) -> None:
  """ValueError where a run has no checkpoint, or not the one of `step`."""
  steps = Store(folder / "checkpoints").steps()
  if not steps:
    raise ValueError(f"--workdir={folder}: holds no checkpoint; train first")
  if step is not None and step not in steps:
    raise ValueError(
      f"--checkpoint_step={step}: {folder} holds {', '.join(map(str, steps))}"
    )
