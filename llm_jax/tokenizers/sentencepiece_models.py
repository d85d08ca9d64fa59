"""A model of SentencePiece as the `tokenizers` library reads it.

The ids of a text are those that SentencePiece gives, which is tried on texts
before a model is taken. They may differ where a model that folds characters
(NFKC) meets marks that combine with a letter and are no part of it.
"""

import math
import re
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
)

from llm_jax.tokenizers import merging, samples

_UNIGRAM, _BPE = 1, 2
_UNKNOWN, _CONTROL, _DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6  # kinds of pieces
_SPACE = "\u2581"
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


def converted(
  data: bytes, name: str, prefix: bool | None = None, once: bool = False
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
  """The library's tokenizer, and the words of bos, eos and pad.

  Args:
    data: of the file.
    name: of the file, for errors.
    prefix: whether a space is put before a text; None = as the model says.
    once: only before the whole text, and not after each added token in it, too;
      a text that begins with a space gets none then, as in transformers.

  Raises:
    ValueError: no such model, or one that cannot be read alike.
  """
  if _TIKTOKEN.match(data):
    raise ValueError(
      f"{name}: is of the tiktoken kind (lines of base64), not SentencePiece's;"
      " save the folder with transformers, which writes tokenizer.json"
    )
  try:
    its = sentencepiece_model_pb2.ModelProto.FromString(data)
    kinds = [piece.type for piece in its.pieces]
    kinds.index(_UNKNOWN)
    if prefix is not None:
      its.normalizer_spec.add_dummy_prefix = prefix
    reference: Any = sentencepiece.SentencePieceProcessor(
      model_proto=its.SerializeToString()
    )
  except Exception as e:  # of protobuf or of the library
    raise ValueError(f"{name}: is no model of SentencePiece") from e
  trained, cleaned = its.trainer_spec, its.normalizer_spec
  for wrong, words in (
    (trained.model_type not in (_UNIGRAM, _BPE), "neither unigram nor bpe"),
    (trained.treat_whitespace_as_suffix, "spaces at the end of pieces"),
    (not cleaned.escape_whitespaces, "spaces as they are"),
    (_UNUSED in kinds, "pieces that are not in use"),
  ):
    if wrong:
      raise ValueError(f"{name}: {words} in a model, which is not known")
  for piece in its.pieces:
    if not math.isfinite(piece.score):
      raise ValueError(
        f"{name}: the piece {piece.piece!r:.60} has the score {piece.score};"
        " scores are finite numbers"
      )
  library = tokenizers.Tokenizer(_model(its))
  defined = _DEFINED in kinds
  _clean(library, cleaned, once or defined)
  for piece in its.pieces:
    if piece.type in (_UNKNOWN, _CONTROL, _DEFINED):
      special = piece.type != _DEFINED
      token = AddedToken(piece.piece, special=special, normalized=False)
      library.add_tokens([token])
  library.encode_special_tokens = True
  unigram = trained.model_type == _UNIGRAM
  score = (lambda i: its.pieces[i].score) if unigram else None
  for text in samples.SAMPLES:
    if defined or once:
      text = text.strip()
    ids = library.encode(text, add_special_tokens=False).ids
    if not samples.alike(reference.encode(text), ids, score):
      raise ValueError(
        f"{name}: SentencePiece encodes {text!r:.60} otherwise than the"
        " tokenizers library would"
      )
  named = {"bos": trained.bos_id, "eos": trained.eos_id, "pad": trained.pad_id}
  return library, {
    name: its.pieces[i].piece
    for name, i in named.items()
    if 0 <= i < len(its.pieces)
  }


def _model(its: Any) -> Any:
  pieces = [(piece.piece, piece.score) for piece in its.pieces]
  kinds = [piece.type for piece in its.pieces]
  falls_back, unknown = _BYTE in kinds, kinds.index(_UNKNOWN)
  if its.trainer_spec.model_type == _UNIGRAM:
    return models.Unigram(pieces, unknown, falls_back)
  apart = (_UNKNOWN, _CONTROL, _DEFINED, _BYTE)
  merged = {i for i, kind in enumerate(kinds) if kind not in apart}
  return models.BPE(
    {piece: i for i, (piece, _) in enumerate(pieces)},
    merging.merges(pieces, merged),
    unk_token=pieces[unknown][0],
    byte_fallback=falls_back,
    fuse_unk=True,
  )


def _clean(library: tokenizers.Tokenizer, how: Any, once: bool) -> None:
  """What is done to a text before it is cut, and undone after."""
  steps: list[Any] = []
  if how.precompiled_charsmap:
    steps.append(normalizers.Precompiled(how.precompiled_charsmap))
  if how.remove_extra_whitespaces:
    ends = tokenizers.Regex(f"\\A +|[ {_SPACE}]+\\z")
    steps.append(normalizers.Replace(ends, ""))
    steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
  if how.add_dummy_prefix and not once:
    steps.append(normalizers.Prepend(_SPACE))
  if how.add_dummy_prefix and once:
    library.pre_tokenizer = pre_tokenizers.Metaspace(
      _SPACE, prepend_scheme="first", split=False
    )
  steps.append(normalizers.Replace(" ", _SPACE))
  library.normalizer = normalizers.Sequence(steps)
  undone: list[Any] = [
    decoders.Replace(_SPACE, " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  if how.add_dummy_prefix:
    undone.append(decoders.Strip(" ", 1, 0))
  library.decoder = decoders.Sequence(undone)
