"""Parameters, flops and bytes, from the configuration alone.

Dimension key: T context; the letters of `axes.KEY` otherwise.
"""

import functools
from typing import NamedTuple

import jax

from llm_jax.models import cache
from llm_jax.models.config import TransformerConfig
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.models.shape import Shape

_WIDTH = {"bfloat16": 2, "float32": 4, "float64": 8}  # bytes of a number


class Sizes(NamedTuple):
  """Counts of parameters."""

  total: int
  embedding: int  # tables that are looked up, never multiplied
  matmul: int  # parameters that multiply each token, the head included; of
  # experts, those that a token goes to


@functools.singledispatch
def parameters(config: Shape) -> Sizes:
  """Counts parameters without making any. `vocab_size` must be set."""
  raise TypeError(config)


@parameters.register
def _decoder(config: TransformerConfig) -> Sizes:
  c = config
  D, F, N, K, H, V = (
    c.embed_dim,
    c.mlp_dim,
    c.num_heads,
    c.K,
    c.H,
    c.vocab_size,
  )
  norm = _norm(c)
  gated = c.gated
  mlp = D * F * (3 if gated else 2)
  active = D * H * (N + 2 * K) + N * H * D + mlp
  kernels = active
  if c.experts.num:
    active += D * c.experts.num + (c.experts.per_token - 1) * mlp
    kernels = active + (c.experts.num - c.experts.per_token) * mlp
  biases = (
    (H * (N + 2 * K) if c.qkv_bias else 0)
    + (D if c.out_bias else 0)
    + ((F * (2 if gated else 1) + D) if c.mlp_bias else 0)
  )
  norms = (4 if c.norm_at == "both" else 2) * norm
  if c.qk_norm:
    norms += 2 * H if c.qk_norm_over == "head" else (N + K) * H
  block = kernels + biases + norms
  places = c.token_types * D
  if c.positions == "learned":
    places += (c.max_length + c.position_offset) * D
  if c.positions == "relative":
    places += c.relative_buckets * N
  tables = V * D + places
  dense = D * D if c.head_dense else 0
  head_biases = _output_bias(c)
  said = D * c.outputs
  if c.outputs and c.output_dense == "tanh":
    said += D * D
    head_biases += D
  head = (0 if c.tied else V * D) + dense + said + head_biases
  if c.head_dense:
    head += norm + (D if c.head_dense_bias else 0)
  if c.head_bias:
    head += V
  around = norm * ((c.norm_at != "sum") + c.embed_norm)
  total = c.num_layers * block + around + tables + head
  looked_up = places if c.tied else tables
  matmul = c.num_layers * active + V * D + dense + said
  return Sizes(total, looked_up, matmul)


def _norm(c: TransformerConfig) -> int:
  """Parameters of a norm of the residual stream."""
  return c.embed_dim * (2 if c.norm == "layer" and c.norm_bias else 1)


@parameters.register
def _(config: EncoderDecoderConfig) -> Sizes:
  """Of the decoder, its attention to the source, and the encoder."""
  c, reader = config, config.reader
  write, read = _decoder(c), _decoder(reader)
  N, K, H = c.num_heads, c.K, c.H
  kernels = 2 * c.embed_dim * H * (N + K)
  cross = kernels + _norm(c) * (2 if c.norm_at == "both" else 1)
  if c.qkv_bias:
    cross += H * (N + 2 * K)
  if c.out_bias:
    cross += c.embed_dim
  if c.qk_norm:
    cross += 2 * H if c.qk_norm_over == "head" else (N + K) * H
  # It reads with the decoder's table and has no head.
  table = c.vocab_size * c.embed_dim
  head = (0 if c.tied else table) + (c.vocab_size if c.head_bias else 0)
  places = read.embedding - (0 if c.tied else table)
  stack = read.total - table - head
  inner = read.matmul - table
  crossed = c.num_layers * cross
  return Sizes(
    write.total + crossed + stack,
    write.embedding + places,
    write.matmul + c.num_layers * kernels + inner,
  )


def _output_bias(c: Shape) -> int:
  return c.outputs if c.output_bias else 0


@parameters.register
def _recurrent(config: RecurrentConfig) -> Sizes:
  c = config
  L, D, J, V = c.num_layers, c.embed_dim, c.gates, c.vocab_size
  biases = J * D * (2 if c.cell == "gru" else 1)
  norms = (L + 1) * D if c.norm != "none" else 0
  head = (0 if c.tied else V * D) + (V if c.head_bias else 0)
  head += _output_bias(c)
  kernels = L * 2 * D * J * D
  total = kernels + L * biases + norms + V * D + head + D * c.outputs
  return Sizes(total, 0 if c.tied else V * D, kernels + V * D + D * c.outputs)


@parameters.register
def _(config: RecurrentEncoderDecoderConfig) -> Sizes:
  """Of a decoder, its attention, and an encoder that reads with its table."""
  c, write = config, _recurrent(config)
  L, D, J = c.num_layers, c.embed_dim, c.gates
  attention = (3 if c.score == "general" else 2) * D * D
  kernels = L * _reading(c)
  biases = L * J * D * (2 if c.cell == "gru" else 1)
  norms = L * D if c.norm != "none" else 0
  return Sizes(
    write.total + attention + kernels + biases + norms,
    write.embedding,
    write.matmul + attention + kernels,
  )


def _reading(c: RecurrentEncoderDecoderConfig) -> int:
  """Numbers in kernels of an encoder's layer: what is read, and states."""
  return c.gates * sum(A * (c.embed_dim + A) for A in c.widths)


class Flops(NamedTuple):
  """Floating-point operations to train on one token, forward and backward."""

  full: float  # every query sees every key (PaLM, arXiv:2204.02311, app. B)
  causal: float  # only keys that are seen: half, where none is later


def stage_bytes(
  config: Shape, tokens: int, stages: int, sources: int = 0
) -> int:
  """`activation_bytes` of one of several stages.

  It keeps what its layers keep of each turn, those in which it waits included;
  with `stage_remat` but what it is handed in each, and its layers' of one.
  """
  if stages == 1:
    return activation_bytes(config, tokens, sources)
  c, m = config, config.parts(stages)
  turns = m + stages - 1
  of_one = activation_bytes(c, tokens) // (stages * m)
  if not c.stage_remat:
    return turns * of_one
  width = _WIDTH[c.dtype]
  return turns * (tokens // m) * c.embed_dim * width + of_one


@functools.singledispatch
def flops_per_token(config: Shape, length: int, source: int = 0) -> Flops:
  """6 a matmul parameter, and 12 L N H for each key seen.

  full   = 6 P + 12 L N H T
  causal = 6 P + 12 N H * mean keys seen, of each layer: (T + 1) / 2 without a
           window, T where a position sees all

  Args:
    config: of the model.
    length: T, of rows.
    source: of rows' sources, where an encoder reads them; 0 = as long.
  """
  raise TypeError(config)


@flops_per_token.register
def _(config: RecurrentConfig, length: int, source: int = 0) -> Flops:
  del length, source  # which cost nothing
  work = 6.0 * parameters(config).matmul
  return Flops(work, work)


@flops_per_token.register
def _(
  config: RecurrentEncoderDecoderConfig, length: int, source: int = 0
) -> Flops:
  """Of a token of the target, and of as much of the source as is its share."""
  c, S = config, source or length
  read = c.num_layers * _reading(c)
  if c.score == "general":  # keys are made of the source
    read += c.embed_dim**2
  written = parameters(c).matmul - read
  work = 6.0 * (written + read * S / length) + 12.0 * c.embed_dim * S
  return Flops(work, work)


@flops_per_token.register
def _(config: EncoderDecoderConfig, length: int, source: int = 0) -> Flops:
  """Of a token of the target, and of as much of the source as is its share."""
  c, S = config, source or length
  share, D = S / length, c.embed_dim
  write, read = _decoder_flops(c, length), _decoder_flops(c.reader, S)
  table = 6.0 * c.vocab_size * D  # of the head, which the encoder has not
  ask = 12.0 * c.num_heads * c.H * c.num_layers * (S + D)
  told = 12.0 * c.K * c.H * c.num_layers * D
  full, causal = (
    a + share * (b - table + told) + ask
    for a, b in zip(write, read, strict=True)
  )
  return Flops(full, causal)


@flops_per_token.register
def _decoder_flops(
  config: TransformerConfig, length: int, source: int = 0
) -> Flops:
  del source  # which it reads in its rows
  c = config
  base = 6.0 * _decoder(c).matmul
  attention = 12.0 * c.num_heads * c.H
  near = c.num_layers - len(c.full_layers) if c.window else 0
  seen = near * _seen(c, length, c.window)
  seen += (c.num_layers - near) * _seen(c, length, None)
  whole = c.num_layers * length
  return Flops(base + attention * whole, base + attention * seen)


def _seen(c: TransformerConfig, length: int, window: int | None) -> float:
  """Keys that a query sees, in the mean."""
  if c.sees == "all":
    half = length if window is None else min(window // 2, length - 1)
    if window is None:
      return length
    return 2 * half + 1 - half * (half + 1) / length
  w = min(window or length, length)
  return (w * (w + 1) / 2 + (length - w) * w) / length


@functools.singledispatch
def activation_bytes(config: Shape, tokens: int, sources: int = 0) -> int:
  """Bytes kept for the backward pass of `tokens` tokens, by analysis.

  Args:
    config: of the model.
    tokens: of rows.
    sources: of their sources, where an encoder reads them; 0 = as many.
  """
  raise TypeError(config)


@activation_bytes.register
def _recurrent_bytes(
  config: RecurrentConfig, tokens: int, sources: int = 0
) -> int:
  """What a layer reads and, unless it is computed anew, gates and states."""
  del sources
  c = config
  kept = c.embed_dim
  if c.remat != "full":
    kept += (2 * c.gates + 2) * c.embed_dim
  return c.num_layers * tokens * kept * _WIDTH[c.dtype]


@activation_bytes.register
def _(
  config: RecurrentEncoderDecoderConfig, tokens: int, sources: int = 0
) -> int:
  """Both stacks, the states that targets begin in, and attention's vectors."""
  c = config
  states = 2 if c.cell == "lstm" else 1
  kept = (states * c.num_layers + 4) * c.embed_dim
  both = tokens + (sources or tokens)
  return _recurrent_bytes(c, both) + tokens * kept * _WIDTH[c.dtype]


@activation_bytes.register
def _(config: EncoderDecoderConfig, tokens: int, sources: int = 0) -> int:
  """Both stacks, and what is asked and read of the source."""
  c, sources = config, sources or tokens
  asked = read = 0
  if c.remat in ("dots", "none"):
    asked, read = c.H * c.num_heads + c.embed_dim, 2 * c.H * c.K
  if c.remat == "none":
    asked += c.embed_dim + c.num_heads * c.H
  crossing = c.num_layers * (tokens * asked + sources * read)
  stacks = _decoder_bytes(c, tokens) + _decoder_bytes(c.reader, sources)
  return stacks + crossing * _WIDTH[c.dtype]


@activation_bytes.register
def _decoder_bytes(
  config: TransformerConfig, tokens: int, sources: int = 0
) -> int:
  """What the policy of remat says.

  Counts what the remat policy keeps in each block: the block's input always;
  with `dots`, every matmul's result; with `none`, also the norms' outputs,
  rotated queries and keys, attention's output and the non-linearity's result.
  Attention is counted as a kernel that keeps no T x T matrix. Of experts the
  policy `dots` keeps nothing; with `none` each that a token goes to keeps its
  input and output, too.
  """
  del sources
  c = config
  width = _WIDTH[c.dtype]
  gated = c.gated
  heads = c.H * (c.num_heads + 2 * c.K)
  inner = c.mlp_dim * (2 if gated else 1)
  kept = c.embed_dim
  if c.remat in ("dots", "none"):
    kept += heads + c.embed_dim
    if not c.experts.num:
      kept += c.embed_dim + inner
  if c.remat == "none":
    kept += 2 * c.embed_dim + heads + c.num_heads * c.H
    kept += inner
    if c.experts.num:
      again = c.experts.per_token * (2 * c.embed_dim + 2 * inner)
      kept += again - inner
  return c.num_layers * tokens * kept * width


@functools.singledispatch
def traffic(config: Shape, tensor: int) -> float:
  """Numbers read and written in the layers, of a token's forward pass.

  Operands and results of each map; `tensor` devices share the wide ones.
  """
  raise TypeError(config)


@traffic.register
def _(config: EncoderDecoderConfig, tensor: int) -> float:
  c = config
  inner = c.H * (2 * c.num_heads + 2 * c.K)
  crossing = c.num_layers * (4 * c.embed_dim + inner / tensor)
  return (
    _decoder_traffic(c, tensor) + _decoder_traffic(c.reader, tensor) + crossing
  )


@traffic.register
def _decoder_traffic(config: TransformerConfig, tensor: int) -> float:
  c = config
  gates = 2 if c.gated else 1
  inner = c.H * (2 * c.num_heads + 2 * c.K) + c.mlp_dim * (gates + 1)
  return c.num_layers * (8 * c.embed_dim + inner / tensor)


@traffic.register
def _recurrent_traffic(config: RecurrentConfig, tensor: int) -> float:
  c = config
  return c.num_layers * c.embed_dim * (4 + 4 * c.gates / tensor)


@traffic.register
def _(config: RecurrentEncoderDecoderConfig, tensor: int) -> float:
  """Two stacks, and attention's maps."""
  attention = config.embed_dim * (4 + 2 / tensor)
  return 2 * _recurrent_traffic(config, tensor) + attention


@functools.singledispatch
def cache_bytes(config: Shape, rows: int, slots: int) -> int:
  """Bytes of what is kept to go on from, of rows with so many tokens."""
  raise TypeError(config)


@cache_bytes.register
def _(config: TransformerConfig, rows: int, slots: int) -> int:
  empty = jax.eval_shape(lambda: cache.empty(config, rows, slots))
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(empty))


@cache_bytes.register
def _(config: EncoderDecoderConfig, rows: int, slots: int) -> int:
  """Of targets, and of sources of as many tokens."""

  def opened() -> cache.Cache:
    empty = cache.empty(config, rows, slots)
    return cache.with_source(config, empty, empty.segment_BS)

  leaves = jax.tree.leaves(jax.eval_shape(opened))
  return sum(x.size * x.dtype.itemsize for x in leaves)


@cache_bytes.register
def _(config: RecurrentEncoderDecoderConfig, rows: int, slots: int) -> int:
  """A state, and sources of as many tokens as there are slots."""
  width = 2 * config.embed_dim * _WIDTH[config.dtype] + 4
  return _state_bytes(config, rows, slots) + rows * slots * width


@cache_bytes.register
def _state_bytes(config: RecurrentConfig, rows: int, slots: int) -> int:
  del slots
  width = _WIDTH[config.dtype]
  memory = max(width, 4) if config.cell == "lstm" else 0
  return rows * config.num_layers * config.embed_dim * (width + memory)
