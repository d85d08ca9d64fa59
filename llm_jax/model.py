"""The model of an experiment, as pure functions."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax import trees
from llm_jax.contracts import Batch, Score, Tokenizer
from llm_jax.data.sides import SourceSide
from llm_jax.experiment import Experiment
from llm_jax.models import (
  blocks,
  cache,
  encoder_decoder,
  recurrent,
  recurrent_encoder_decoder,
  transformer,
)
from llm_jax.models.cache import with_row, without_row
from llm_jax.models.config import TransformerConfig
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.language import LanguageModel
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.models.shape import Shape
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece

# Characters of a corpus not read yet are taken to be about as many.
BYTE_IDS = ByteTokenizer.vocab_size


@dataclasses.dataclass(frozen=True)
class Model:
  """Pure functions of one shape of model."""

  shape: Shape
  score: Score
  decode: Callable[..., Any]
  ready: Callable[[Any], Any]  # variables -> the same for a loop of `decode`
  open_cache: Callable[[Any, int, int], Any]  # (variables, rows, slots)
  decode_rows: Callable[..., Any]  # each row with an adapter of its own
  open_rows: Callable[[Any, int, int], Any]
  repeat: Callable[[Any, int], Any]  # (cache, n) -> each of its rows n times
  grow: Callable[[Any, int], Any]  # (cache, n) -> room for n more tokens
  init: Callable[[jax.Array], Any]  # key -> boxed variables


class _Kind(NamedTuple):
  """What there is of each kind of model."""

  module: type[LanguageModel]
  of_rows: Any  # the dim of each array of a cache that rows lie on
  repeat: Callable[[Any, int], Any]
  grow: Callable[[Any, int], Any]
  by_layer: Callable[[Any, Any], Any] | None = None


KINDS: dict[type[Shape], _Kind] = {
  TransformerConfig: _Kind(
    transformer.Decoder,
    cache.OF_ROWS,
    cache.repeated,
    cache.grown,
    blocks.by_layer,
  ),
  EncoderDecoderConfig: _Kind(
    encoder_decoder.EncoderDecoder,
    encoder_decoder.OF_ROWS,
    cache.repeated,
    encoder_decoder.grown,
    blocks.by_layer,
  ),
  # A state has room for any number of tokens.
  RecurrentConfig: _Kind(
    recurrent.Recurrent, 0, recurrent.repeated, lambda state, _: state
  ),
  RecurrentEncoderDecoderConfig: _Kind(
    recurrent_encoder_decoder.RecurrentEncoderDecoder,
    0,
    recurrent_encoder_decoder.repeated,
    lambda writing, _: writing,
  ),
}


def make(experiment: Experiment, tokenizer: Tokenizer) -> Model:
  """The model, its vocabulary filled in from the tokenizer."""
  shape = experiment.model
  if not shape.vocab_size:
    shape = dataclasses.replace(shape, vocab_size=tokenizer.vocab_size)
  if shape.vocab_size < tokenizer.vocab_size:
    raise ValueError(
      f"--model.vocab_size={shape.vocab_size}: the tokenizer has"
      f" {tokenizer.vocab_size} ids; 0 takes as many"
    )
  if getattr(shape, "start_id", 0) < 0:
    side = getattr(experiment.data, "source", SourceSide())
    its: dict[str, Any] = {"start_id": side.start_id(tokenizer)}
    shape = dataclasses.replace(shape, **its)
  return of_shape(shape)


def expected_shape(experiment: Experiment) -> Shape:
  """The model's shape before there is a tokenizer."""
  shape, tokenizer = experiment.model, experiment.tokenizer
  if shape.vocab_size:
    return shape
  size = BYTE_IDS
  if isinstance(tokenizer, SentencePiece) and tokenizer.kind != "char":
    size = tokenizer.vocab_size
  size += tokenizer.extra_ids
  return dataclasses.replace(shape, vocab_size=size)


def of_shape(shape: Shape) -> Model:
  """The pure functions of a model of this shape."""
  kind = KINDS[type(shape)]
  module = kind.module(shape)
  # The same parameters, compiled sooner.
  looped = kind.module(dataclasses.replace(shape, unroll=1))

  def score(
    variables: Any,
    batch: Batch,
    *,
    key: jax.Array | None = None,
    entropy: bool = False,
    hits: bool = False,
    temperature: float = 1.0,
  ) -> Any:
    drops = shape.dropout or _adapters_drop(variables)
    rngs = {"dropout": key} if key is not None and drops else {}
    return module.apply(
      variables,
      batch,
      entropy=entropy,
      hits=hits,
      temperature=temperature,
      rngs=rngs,
      method="score",
    )

  def decode(variables: Any, *arguments: Any) -> Any:
    return module.apply(variables, *arguments, method="decode")

  def ready(variables: Any) -> Any:
    if shape.unroll or kind.by_layer is None:
      return variables
    return {**variables, "layers": kind.by_layer(variables, shape)}

  def open_cache(variables: Any, rows: int, slots: int) -> Any:
    return module.apply(variables, rows, slots, method="open_cache")

  # The adapters of rows have a leading dim B, the cache keeps its layout.
  def split(variables: Any) -> tuple[Any, Any]:
    rest = {k: v for k, v in variables.items() if k != "adapters"}
    return rest, variables["adapters"]

  def decode_rows(variables: Any, *arguments: Any) -> Any:
    rest, adapters = split(variables)

    def one(adapter: Any, state: Any, *row: jax.Array) -> Any:
      logits_BV, state = decode(
        rest | {"adapters": adapter}, *(x[None] for x in row), with_row(state)
      )
      return logits_BV[0], without_row(state)

    *rows, state = arguments
    return jax.vmap(one, (0, kind.of_rows, 0, 0, 0), (0, kind.of_rows))(
      adapters, state, *rows
    )

  def open_rows(variables: Any, rows: int, slots: int) -> Any:
    rest, adapters = split(variables)

    def one(adapter: Any) -> Any:
      opened = open_cache(rest | {"adapters": adapter}, 1, slots)
      return without_row(opened)

    return jax.vmap(one, out_axes=kind.of_rows, axis_size=rows)(adapters)

  return Model(
    shape=shape,
    score=score,
    decode=decode,
    ready=ready,
    open_cache=open_cache,
    decode_rows=decode_rows,
    open_rows=open_rows,
    repeat=kind.repeat,
    grow=kind.grow,
    init=lambda key: looped.init(key, jnp.zeros((1, 1), jnp.int32)),
  )


def _adapters_drop(variables: Any) -> bool:
  adapters = variables.get("adapters", {})
  return any(path.endswith("/dropout") for path, _ in trees.paths(adapters))
