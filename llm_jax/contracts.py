"""The architecture on one page: what each room promises the others.

Rooms never import each other. They meet in `build.py`, through values of the
types below.

Dimension key: B sequences; T positions; V vocabulary.
"""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from llm_jax.ops.metrics import Mean
from llm_jax.ops.routing import Routing

Batch = Mapping[str, Any]
"""Arrays of one global batch, by suffixed name. A causal batch holds
`tokens_BT` and `target_BT` i32, `mask_BT` bool (True = the target counts) and,
where rows hold several documents, `segment_BT` i32 (0 = padding) and
`position_BT` i32 (from 0 within each document); where documents have prompts,
`prompt_BT` bool (True = the target is part of one). Where tokens are hidden
where they stand, a position's target is the token there. What an encoder reads
is `source_BS`, `source_segment_BS` and `source_position_BS`; its segments are
those of the targets that it is read for. Where there is `asked_BT`,
bool, scores of other positions are nothing; where there is `place_BT`, rows
are scored several in one, see `models.together`. What a source has to tell of
rows, `told_x_B`, nobody reads: its mean is the metric x of the step."""

Share = tuple[int | tuple[int, ...], int]
"""(index, count): the rows of a global batch that are a process's, as one of
`count` equal blocks, or, with several indices, as those, in their order."""

Roles = Mapping[str, Any]
"""Role ("policy", "reference", ...) -> Flax variables."""

Metrics = dict[str, Mean]


class Scores(NamedTuple):
  """What a forward says of given targets. Nobody outside a head sees logits."""

  logp_BT: jax.Array  # log p(target), nats, float32 or wider
  logz_BT: jax.Array  # log-sum-exp of the logits, nats (for the z-loss)
  entropy_BT: jax.Array | None = None  # nats, where asked for
  hit_BT: jax.Array | None = None  # target is the arg max, where asked for
  output_BTO: jax.Array | None = None  # of the output head, where there is one
  routing: Routing | None = None  # of experts, where there are any


class Score(Protocol):
  """Scores targets under one role. `key` None turns dropout off."""

  def __call__(
    self,
    variables: Any,
    batch: Batch,
    *,
    key: jax.Array | None = None,
    entropy: bool = False,
    hits: bool = False,
    temperature: float = 1.0,
  ) -> Scores: ...


Forward = Mapping[str, Score]
"""Role -> its forward."""


class Objective(Protocol):
  """What to minimise: three pure functions, map, gather and sum.

  annotate  one microbatch; forwards allowed, no gradient.
  weigh     the whole batch, no forward; writes normalised weights.
  loss      one microbatch, differentiated; losses of microbatches add.
            `key` None turns dropout off.
  """

  @property
  def reads(self) -> tuple[str, ...]:
    """Kinds of rows: "text", or one of `data.preferences`."""
    return ("text",)

  @property
  def rows_together(self) -> int:
    """Rows one after another that are one example, in one microbatch."""
    return 1

  @property
  def outputs_of(self) -> str:
    """What the output head speaks of: a "text", a "token" or a "span"."""
    return "text"

  @property
  def problem_type(self) -> str | None:
    """How transformers calls what texts are told apart by, if it does."""
    return None

  @property
  def needs_reference(self) -> bool:
    """Whether the role "reference" is asked: the policy as it once was."""
    return False

  @property
  def needs_critic(self) -> bool:
    """Whether the role "value" is trained beside the policy."""
    return False

  def asked(self, batch: Batch) -> jax.Array | None:
    """Positions whose scores it reads, [B, T] bool; None = all of them."""
    del batch
    return None

  def moved_by(self, batch: Batch) -> jax.Array | None:
    """Rows that `loss` asks about, [B] bool; None = all of them."""
    del batch
    return None

  def annotate(self, forward: Forward, roles: Roles, batch: Batch) -> Batch:
    """The batch with what forwards say of it, as it is by default."""
    del forward, roles
    return batch

  def rewards(
    self, forward: Forward, roles: Roles, batch: Batch
  ) -> jax.Array | None:
    """What the completion of each row is worth, [B]; None if nothing says so.

    Without dropout, of a batch as a source gives it.
    """
    del forward, roles, batch
    return None

  @abc.abstractmethod
  def weigh(self, batch: Batch) -> Batch: ...

  @abc.abstractmethod
  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]: ...


def asking(objective: Objective, batch: Batch) -> Batch:
  """The batch with `asked_BT`, if the objective reads only some scores."""
  asked_BT = objective.asked(batch)
  return batch if asked_BT is None else {**batch, "asked_BT": asked_BT}


class Source(Protocol):
  """Where batches come from. Offline sources ignore the training state.

  `next` returns this process's rows of the next global batch, as host arrays.
  The state is small, JSON-like, and restored in constant time.
  """

  def next(self, state: Any) -> Batch: ...

  def get_state(self) -> dict[str, Any]: ...

  def set_state(self, saved: dict[str, Any]) -> None: ...


class Marks(NamedTuple):
  """Ids that stand for text that was taken away, as far as there are any."""

  mask: int | None = None
  sentinels: tuple[int, ...] = ()  # of spans, the first one first
  modes: Mapping[str, int] = MappingProxyType({})  # UL2's "R", "S", "X"


class Located(NamedTuple):
  """Ids of a text, and from which to which character each stands for it.

  Ids that stand for less than a character each have all of it.
  """

  ids: list[int]
  place_N2: np.ndarray  # [ids, 2] i32


class Tokenizer(Protocol):
  """Text <-> ids. pad, bos and eos are distinct.

  `decode(encode(text)) == text` for every string. `encode` adds no special
  ids, and text that looks like a special token is encoded as plain text.
  """

  vocab_size: int
  pad_id: int
  bos_id: int
  eos_id: int
  start_id: int  # stands before the first token of every text
  role_ids: dict[str, int]  # "system", "user", "assistant", "end" -> id
  marks: Marks
  fingerprint: str  # changes whenever any encoding could

  def encode(self, text: str) -> list[int]: ...

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

  def locate(self, texts: Sequence[str]) -> list[Located]:
    """Ids as `encode_batch` has them, and where in its text each stands."""
    ...

  def decode(self, ids: Sequence[int]) -> str: ...

  def token_bytes(self) -> np.ndarray:
    """[V] i32: UTF-8 bytes that each id stands for; 0 for special ids."""
    ...


class Evaluator(Protocol):
  """Measures roles: named numbers, "loss" among them."""

  def __call__(self, roles: Roles) -> dict[str, float]: ...


class Question(NamedTuple):
  """Completions of one prompt, to be judged."""

  messages: tuple[tuple[str, str], ...]  # the prompt: (role, content) of each
  completions: tuple[str, ...]
  reference: str | None = None  # an answer known to be right


class Verdict(NamedTuple):
  """What a judge says of the completions of a prompt."""

  scores: tuple[float, ...]  # one each, higher is better, the same is a tie
  ordinal: bool = False  # only their order means anything
  reason: str = ""
  parts: tuple[tuple[str, tuple[float, ...]], ...] = ()  # that a sum is made of


class Judge(Protocol):
  """Says which completions are better, and why."""

  def __call__(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    """Yields a verdict for each question, in order, as it is found."""
    ...


class Hook:
  """Watches a run, by what it overrides of these. Steps count from 1."""

  def read(self, step: int, numbers: dict[str, float]) -> None:
    """Gets the numbers of every step, one step late."""

  def due(self, step: int) -> bool:
    """Whether `act` is wanted after a step."""
    del step
    return False

  def act(self, step: int, state: Any) -> None:
    """Gets the state after that step, once its numbers have been read."""

  @property
  def waits(self) -> bool:
    """Whether a batch is asked for once all numbers have been read."""
    return False

  def rescue(self, step: int, state: Any, error: Exception) -> None:
    """The source failed: gets the last state, whose numbers have been read."""

  def close(self, *exception: object) -> None:
    """The run is over, because of an exception or without."""


Progress = Callable[..., Iterator[Any]]
"""progress(iterable, total=..., label=...) -> the same items, with a bar."""
