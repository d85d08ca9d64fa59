"""The whole of a run, as data: every leaf is a flag of the same dotted name."""

import dataclasses
from typing import Literal

from llm_jax.checkpoints.store import Checkpoints
from llm_jax.config import field
from llm_jax.contracts import Objective
from llm_jax.data.arrays import Arrays
from llm_jax.data.examples import Examples
from llm_jax.data.instructions import Instructions
from llm_jax.data.labelled import Labels
from llm_jax.data.passages import Passages
from llm_jax.data.preferences import Preferences
from llm_jax.data.tags import Tags
from llm_jax.data.text import Text
from llm_jax.evaluation.standard import Rewards
from llm_jax.generation.rollouts import Rollouts
from llm_jax.judges.rules import Length
from llm_jax.judges.weighted import Part, Sum
from llm_jax.models.config import TransformerConfig
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.sampling import Sampler
from llm_jax.peft.hold import Held
from llm_jax.peft.method import Full, Method
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.tokenizers.sentencepiece import SentencePiece
from llm_jax.training.optimizers import AdamW, Optimizer
from llm_jax.training.refresh import Refresh
from llm_jax.training.watchdog import Watchdog

Asked = Instructions | Preferences  # data in which a prompt is a question
Marks = Tags | Passages  # data of which positions are told
DataSettings = Text | Asked | Examples | Marks | Arrays
Judges = Part | Sum


@dataclasses.dataclass(frozen=True)
class Log:
  """What is written down while training."""

  every: int = field(10, "steps between rows of metrics.jsonl", low=1)
  tensorboard: bool = field(True, "also write TensorBoard files")
  profile_from: int = field(0, "first step to profile; 0 = none, 1 = 2", low=0)
  profile_steps: int = field(3, "how many steps to profile", low=1)


@dataclasses.dataclass(frozen=True)
class Validation:
  """Loss on held-out text while training, and in `evaluate`."""

  every: int = field(250, "steps between validations; 0 = never", low=0)
  batches: int = field(
    20, "batches of each validation in training; 0 = the whole split", low=0
  )
  split: str = field("validation", "what `evaluate` measures")
  baselines: bool = field(
    True,
    "`evaluate` also scores a unigram and a 5-gram model, where every token of"
    " the data counts",
  )
  questions: int = field(
    100,
    "questions that `evaluate` has answered: of instruction data, or text with"
    " spans taken out, for exact match, of preferences for KL from the"
    " reference; 0 = none",
    low=0,
  )
  best_of: int = field(
    0,
    "answers that `evaluate` draws to each question for the judges to score,"
    " for what the best of n is worth; 0 = none",
    low=0,
  )
  temperature: float = field(
    1.0,
    "of the answers that `evaluate` draws, and of the distributions whose KL"
    " they tell",
    low=0.01,
  )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Other data that `evaluate` measures: what was gained or lost there."""

  name: str = field("", "of its line in tables")
  data: DataSettings = Text()
  split: str = field("validation", "which split of it")
  batches: int = field(
    0,
    "batches, at most, and what is whole in them of sentences and of questions"
    " about texts; 0 = the whole split",
    low=0,
  )
  questions: int = field(
    100, "questions answered, for exact match; 0 = none", low=0
  )
  shots: int = field(0, "answered questions shown before each", low=0)


@dataclasses.dataclass(frozen=True)
class Samples:
  """Text written while training, and by `generate`."""

  every: int = field(500, "steps between samples in training; 0 = never", low=0)
  prompts: tuple[str, ...] = field(("",), "what the samples begin with")
  max_new_tokens: int = field(96, "tokens a sample may add", low=1)
  stop: tuple[str, ...] = field((), "text that ends a sample")
  sampler: Sampler = Sampler()


@dataclasses.dataclass(frozen=True)
class SelfPlay:
  """Rejected completions that are the reference's own: SPIN, with `Refresh`."""

  max_new_tokens: int = field(
    0,
    "tokens of a rejected completion drawn from the reference, at most; 0 ="
    " rejected is what the data reject",
    low=0,
  )
  sampler: Sampler = Sampler()


@dataclasses.dataclass(frozen=True)
class Ptx:
  """Text that is modelled beside what is drawn (PPO-ptx, arXiv:2203.02155)."""

  data: Text | Instructions | Arrays = Text()
  weight: float = field(
    1.0, "gamma, weight of its mean loss a token; 0 = it is not read", low=0
  )
  batch_size: int = field(
    0, "its rows in a step; 0 = as many as --batch_size", low=0
  )


@dataclasses.dataclass(frozen=True)
class Experiment:
  """From this, `build` makes everything else."""

  model: (
    TransformerConfig
    | EncoderDecoderConfig
    | RecurrentConfig
    | RecurrentEncoderDecoderConfig
  ) = TransformerConfig()
  objective: Objective = Causal()
  tokenizer: SentencePiece | Bytes = SentencePiece()
  data: DataSettings = Text()
  optimizer: Optimizer = AdamW()
  peft: Method = Full()
  refresh: Refresh = Refresh()
  self_play: SelfPlay = SelfPlay()
  rollouts: Rollouts = Rollouts()
  shaping: Shaping = Shaping()
  ptx: tuple[Ptx, ...] = ()
  mesh: MeshShape = MeshShape()
  checkpoints: Checkpoints = Checkpoints()
  log: Log = Log()
  watchdog: Watchdog = Watchdog()
  validation: Validation = Validation()
  samples: Samples = Samples()
  evaluations: tuple[Evaluation, ...] = ()
  judge: Judges = Length()
  judges: tuple[Judges, ...] = ()  # whom `evaluate` also asks, beside `judge`
  label: Labels = Labels()
  rewards: Rewards = Rewards()
  steps: int = field(1000, "optimiser steps", low=0)
  batch_size: int = field(32, "rows in a step, over all devices", low=1)
  microbatches: int = field(
    1,
    "parts a step is computed in; changes memory and the draws of dropout,"
    " nothing else",
    low=1,
  )
  compiler: tuple[str, ...] = field(
    (),
    "name=value options of XLA for the step, over those that"
    " sharding/switches.py has for the device; name= takes one away",
  )
  seed: int = field(0, "root of all randomness", low=0, high=2**32 - 1)
  average: float | None = field(
    None, "decay of a moving average of parameters", low=0, high=1
  )
  frozen: Held = field(
    "same", "how frozen weights are held; int8 and nf4 for the blocks' kernels"
  )
  reference: Literal["each_step", "once"] = field(
    "each_step",
    "when an objective's reference is asked: at each step, or once about all"
    " data before the first",
  )
  skip_nonfinite: int = field(
    0, "steps with a non-finite loss to skip before stopping", low=0
  )
  init_from: str | None = field(
    None,
    "run folder to take weights and tokenizer from, or hf:FOLDER; with"
    " +peft:FOLDER the adapters there are folded in",
  )
  value_from: str | None = field(
    None,
    "run folder, or hf:FOLDER, of a reward model that a critic of its own"
    " begins as; none = as the policy begins",
  )
  judge_may_change: bool = field(
    False, "a policy that draws goes on with another judge than it began with"
  )
  workdir: str | None = field(None, "run folder; none = runs/NAME")

  @property
  def source_length(self) -> int:
    """Positions of what an encoder reads of a row; 0 = there is no encoder."""
    source = getattr(self.data, "source", None)
    return source.length if source and self.model.reads_sources else 0

  @property
  def draws(self) -> bool:
    """Whether the policy learns from what it draws itself."""
    reads = self.objective.reads
    return "rollouts" in reads or (self.draws_pairs and "pairs" in reads)

  @property
  def draws_pairs(self) -> bool:
    """Whether what is drawn becomes pairs."""
    return self.rollouts.pair_of > 0

  @property
  def group(self) -> int:
    """Completions that are drawn of a prompt, if any are."""
    if self.draws_pairs:
      return self.rollouts.pair_of
    return getattr(self.objective, "completions", 1)

  @property
  def learned(self) -> int:
    """Rows that an update learns from, if it draws any."""
    rows = self.rollouts.batch
    return 2 * rows // self.group if self.draws_pairs else rows

  @property
  def beside(self) -> dict[int, Ptx]:
    """What is modelled beside what is drawn, and weighs anything."""
    return {i: its for i, its in enumerate(self.ptx) if its.weight}

  @property
  def asks_each_step(self) -> bool:
    """Whether a step asks a reference."""
    return self.objective.needs_reference and self.reference == "each_step"

  @property
  def scored_at(self) -> float:
    """Temperature that logits are divided by: that of drawing, if any."""
    return self.rollouts.sampler.temperature if self.draws else 1.0

  def __post_init__(self) -> None:
    if self.average == 1:
      raise ValueError(
        "--average=1: must be less than 1, or nothing is learned"
      )
    names = ["data", *(e.name for e in self.evaluations)]
    for i, name in enumerate(names[1:]):
      if not name or name in names[: i + 1]:
        raise ValueError(
          f"--evaluations.{i}.name={name}: must be given, and be none of"
          f" {', '.join(names[: i + 1])}"
        )


# A run may go on with other values of these: they change where, how long and
# how often, never what a step computes.
MAY_CHANGE = (
  "workdir",
  "init_from",
  "value_from",
  "steps",
  "microbatches",
  "mesh.",
  "log.",
  "watchdog.",
  "checkpoints.",
  "validation.",
  "samples.",
  "evaluations",
  "judge",
  "objective.longest",
  "objective.threshold",
  "label",
  "rewards.",
  "rollouts.widths",
  "rollouts.packing",
  "shaping.most_kl",
  "shaping.patience",
  "data.cache",
  "data.widths",
  "model.remat",
  "model.stage_microbatches",
  "model.stage_remat",
  "model.unroll",
  "model.head_chunk",
  "model.attention",
  "compiler",
  "skip_nonfinite",
)
