"""Our tokenizers as a tokenizer.json, which transformers loads as it is.

The ids of a text are the same but where it holds a special token's name, which
transformers takes for the token, as a unigram model takes a byte's (<0x0A>), or
U+2581, which SentencePiece's models there take for a space. Of two cuts of a
text that are equally likely to a unigram model it may take the other.
"""

from collections.abc import Callable, Sequence
import json
from typing import Any

import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from llm_jax.contracts import Tokenizer
from llm_jax.tokenizers import merging, samples, special
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.characters import CharacterTokenizer
from llm_jax.tokenizers.extra import Extended
from llm_jax.tokenizers.pretrained import PretrainedTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePieceTokenizer, SPACE


def files(
  tokenizer: Tokenizer, texts: Sequence[str] = (), ended: bool = False
) -> tuple[bytes, dict[str, Any]]:
  """tokenizer.json, and tokenizer_config.json as a dict.

  Args:
    tokenizer: ours, or one of others.
    texts: that it must encode alike, beside `samples.SAMPLES`.
    ended: texts end with eos, as sources do, and begin with nothing; those of
      others are as they were.

  Raises:
    ValueError: the same text would have other ids there.
  """
  if isinstance(tokenizer, PretrainedTokenizer):
    return tokenizer.model, _config(
      {
        name: tokenizer.word(getattr(tokenizer, f"{name}_id"))
        for name in ("bos", "eos", "pad")
      }
    )
  made = _made(tokenizer, ended)
  for text in (*samples.SAMPLES, *texts):
    text = text.replace(SPACE, "")
    if any(name in text for name in special.NAMES):
      continue
    try:
      ours = tokenizer.encode(text)
    except ValueError:  # a character that it does not have
      continue
    theirs = made.encode(text, add_special_tokens=False).ids
    if not samples.alike(ours, theirs, _score(tokenizer)):
      raise ValueError(
        f"its tokenizer would encode {text!r:.60} otherwise as tokenizer.json"
      )
  names = {"bos": special.BOS, "eos": special.EOS, "pad": special.PAD}
  words = {name: special.NAMES[i] for name, i in names.items()}
  return made.to_str(pretty=True).encode(), _config(words)


def _config(words: dict[str, Any]) -> dict[str, Any]:
  return {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    **{f"{name}_token": word for name, word in words.items()},
  }


def _score(tokenizer: Tokenizer) -> Callable[[int], float] | None:
  """Of an id, where the model is a unigram one."""
  if isinstance(tokenizer, Extended):
    tokenizer = tokenizer.base
  if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.is_unigram:
    pieces = tokenizer.pieces()
    return lambda i: pieces[i][1]
  return None


def _made(tokenizer: Tokenizer, ended: bool) -> tokenizers.Tokenizer:
  extra: tuple[int, ...] = ()
  if isinstance(tokenizer, Extended):
    extra, tokenizer = tokenizer.marks.sentinels, tokenizer.base
  if isinstance(tokenizer, ByteTokenizer):
    made = _of_bytes()
  elif isinstance(tokenizer, CharacterTokenizer):
    made = _of_characters(tokenizer)
  elif isinstance(tokenizer, SentencePieceTokenizer):
    made = _of_pieces(tokenizer)
  else:
    kind = type(tokenizer).__name__
    raise ValueError(f"a {kind} has no form as tokenizer.json")
  named = [f"<extra_id_{i}>" for i in range(len(extra))]
  made.add_special_tokens(
    [
      AddedToken(name, special=True, normalized=False)
      for name in (*special.NAMES, *named)
    ]
  )
  mark = special.EOS if ended else tokenizer.start_id
  name = special.NAMES[mark]
  made.post_processor = processors.TemplateProcessing(
    single=f"$A {name}" if ended else f"{name} $A",
    pair=f"$A {name} $B {name}" if ended else f"{name} $A $B",
    special_tokens=[(name, mark)],
  )
  return made


def _of_bytes() -> tokenizers.Tokenizer:
  """Bytes as the library spells them: GPT-2's printable stand-ins."""
  kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
  stand_in = {b: chr(b) for b in kept}
  others = [b for b in range(256) if b not in stand_in]
  stand_in |= {b: chr(256 + i) for i, b in enumerate(others)}
  vocab = {name: i for i, name in enumerate(special.NAMES)}
  vocab |= {stand_in[b]: special.COUNT + b for b in range(256)}
  made = tokenizers.Tokenizer(models.BPE(vocab, []))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  made.decoder = decoders.ByteLevel()
  return made


def _byte(b: int) -> str:
  return f"<0x{b:02X}>"


def _of_characters(tokenizer: CharacterTokenizer) -> tokenizers.Tokenizer:
  vocab = {name: i for i, name in enumerate(special.NAMES)}
  first = len(vocab)
  vocab |= {c: first + i for i, c in enumerate(tokenizer.characters)}
  first = len(vocab)
  falls_back = tokenizer.vocab_size > first
  if falls_back:
    vocab |= {_byte(b): first + b for b in range(256)}
  unknown = special.NAMES[special.UNKNOWN]
  made = tokenizers.Tokenizer(
    models.BPE(vocab, [], unk_token=unknown, byte_fallback=falls_back)
  )
  made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
  return made


def _of_pieces(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
  """BPE by its merges in the order of their scores; unigram by its scores."""
  pieces, unknown = tokenizer.pieces(), special.NAMES[special.UNKNOWN]
  model: Any
  if tokenizer.is_unigram:
    model = models.Unigram(pieces, unk_id=special.UNKNOWN, byte_fallback=True)
  else:
    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    merged = [
      i
      for i, (piece, _) in enumerate(pieces)
      if i >= special.COUNT and not piece.startswith("<0x")
    ]
    pairs = merging.merges(pieces, merged)
    model = models.BPE(
      vocab, pairs, unk_token=unknown, byte_fallback=True, fuse_unk=True
    )
  made = tokenizers.Tokenizer(model)
  made.normalizer = normalizers.Replace(" ", SPACE)
  made.decoder = decoders.Sequence(
    [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  return made


def closed(source: str) -> str:
  """A chat template whose prompts end with eos, as what an encoder reads."""
  end = "{% if add_generation_prompt %}{{ eos_token }}{% endif %}"
  return source.removesuffix("\n") + end


def template(source: str, tokenizer: Tokenizer, apart: bool = False) -> str:
  """A chat template of ours as transformers renders it, the row's start first.

  Args:
    source: of the template, which may name `tokens.user` and so on.
    tokenizer: says which ids these are.
    apart: an encoder reads what it renders, see `closed`; eos begins no source.
  """
  if isinstance(tokenizer, PretrainedTokenizer):
    words = {
      name: tokenizer.word(i)
      for name, i in tokenizer.role_ids.items()
      if name in special.ROLES
    }
    begins = tokenizer.word(tokenizer.start_id)
  else:
    words = {name: special.NAMES[i] for name, i in special.ROLE_IDS.items()}
    begins = special.NAMES[tokenizer.start_id]
  start = f"{{{{- {json.dumps(begins)} }}}}"
  ends_texts = tokenizer.start_id == tokenizer.eos_id
  if "bos_token" in source or apart and ends_texts:
    start = ""
  return f"{{%- set tokens = {json.dumps(words)} %}}\n{start}{source}"
