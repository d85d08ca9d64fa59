"""A tokenizer.json for folders that have none, as older ones.

They have a model of SentencePiece (Llama 2, T5, Gemma), pieces of words
(vocab.txt: BERT), or merges of bytes (vocab.json and merges.txt: GPT-2,
RoBERTa, BART), and tell of more tokens beside it.
"""

from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from llm_jax.tokenizers import sentencepiece_models
from llm_jax.tokenizers.folders import Added, Said, WORDS

_PIECES = ("tokenizer.model", "spiece.model")
_WORDS, _VOCABULARY, _MERGES = "vocab.txt", "vocab.json", "merges.txt"


class Made(NamedTuple):
  """A tokenizer.json, and the words of tokens where the folder names none."""

  model: bytes
  words: dict[str, str]


def made(said: Said) -> Made:
  """What a folder's other files come to.

  Raises:
    ValueError: none of the files, or one that is not what it should be.
  """
  holds = lambda name: (said.path / name).is_file()
  if name := next(filter(holds, _PIECES), None):
    library, words = _of_pieces(said, said.path / name)
  elif holds(_WORDS):
    words = _words(said, "Bert")
    library = _of_words(said, words)
  elif holds(_VOCABULARY) and holds(_MERGES):
    words = _words(said, "Roberta", "Bart", "GPT2")
    library = _of_bytes(said, words)
  else:
    raise ValueError(
      f"{said.path}: holds no tokenizer.json, nor {', '.join(_PIECES)},"
      f" {_WORDS} or {_VOCABULARY} with {_MERGES}"
    )
  return Made(library.to_str().encode(), words)


def _of_pieces(
  said: Said, path: pathlib.Path
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
  is_t5, added = said.kind == "T5", said.added()
  plain = any(not its.token.special for its in added)
  once = plain and not said.flag("legacy", True)
  library, words = sentencepiece_models.converted(
    path.read_bytes(), path.name, said.flag("add_prefix_space", None), once
  )
  if is_t5 and not any("<extra_id_" in its.token.content for its in added):
    # The last one first.
    count = said.count("extra_ids", 100)
    names = [f"<extra_id_{i}>" for i in reversed(range(count))]
    added += [Added(AddedToken(name, special=True)) for name in names]
  _add(library, [Added(_as_it_stands(token), i) for token, i in added])
  for name in ("bos", "eos", "pad"):
    word = said.word(name)
    if isinstance(word, str):
      words[name] = word
  _surround(
    library,
    words.get("bos") if said.flag("add_bos_token", not is_t5) else None,
    words.get("eos") if said.flag("add_eos_token", is_t5) else None,
  )
  return library, words


def _of_words(said: Said, words: dict[str, str]) -> tokenizers.Tokenizer:
  """BERT's: arXiv:1810.04805, section 3; words by arXiv:1609.08144."""
  vocab: dict[str, int] = {}
  for i, line in enumerate(_text(said.path / _WORDS).split("\n")):
    word = line.removesuffix("\r")
    if word in vocab:
      raise ValueError(
        f"{_WORDS}: line {i + 1} has {word!r:.60}, as line {vocab[word] + 1}"
        " has: a token of two ids"
      )
    if line:
      vocab[word] = i
  library = tokenizers.Tokenizer(
    models.WordPiece(vocab, unk_token=words["unk"])
  )
  library.normalizer = normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=said.flag("tokenize_chinese_chars", True),
    strip_accents=said.flag("strip_accents", None),
    lowercase=said.flag("do_lower_case", True),
  )
  library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  library.decoder = decoders.WordPiece()
  return _marked(library, said, words, _WORDS)


def _of_bytes(said: Said, words: dict[str, str]) -> tokenizers.Tokenizer:
  """GPT-2's: Radford et al. 2019, "Language Models are Unsupervised ..."."""
  path = said.path
  try:
    vocab, merges = models.BPE.read_file(
      str(path / _VOCABULARY), str(path / _MERGES)
    )
    library = tokenizers.Tokenizer(models.BPE(vocab, merges))
  except Exception as e:  # the library raises nothing finer
    raise ValueError(f"{_VOCABULARY} and {_MERGES}: no tokenizer ({e})") from e
  library.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=said.flag("add_prefix_space", False)
  )
  library.decoder = decoders.ByteLevel()
  return _marked(library, said, words, _VOCABULARY)


def _marked(
  library: tokenizers.Tokenizer, said: Said, words: dict[str, str], file: str
) -> tokenizers.Tokenizer:
  """With special tokens; what begins a text, and what ends it, around it."""
  for name in ("bos", "eos", "unk"):
    if library.token_to_id(words[name]) is None:
      raise ValueError(f"{file}: has no {words[name]!r} ({name}_token)")
  added = said.added()
  known = {its.token.content for its in added}
  usual = [word for word in words.values() if word not in known]
  added += [
    Added(AddedToken(word, special=True, lstrip=word == "<mask>"))
    for word in dict.fromkeys(usual)
    if library.token_to_id(word) is not None
  ]
  _add(library, added)
  alone = said.kind == "GPT2"
  _surround(
    library,
    words["bos"] if said.flag("add_bos_token", not alone) else None,
    None if alone else words["eos"],
  )
  return library


def _words(said: Said, *kinds: str) -> dict[str, str]:
  """Words of special tokens; ValueError where the tokenizer is another."""
  if said.kind not in kinds:
    known = ", ".join(f"{kind}Tokenizer" for kind in kinds)
    raise ValueError(
      f"{said.path}: holds no tokenizer.json, and its tokenizer_class is"
      f" {said.kind + 'Tokenizer' if said.kind else 'not said'}; known of its"
      f" other files are {known}"
    )
  words = dict(WORDS[said.kind])
  instead = {"bos": "cls", "eos": "sep"} if said.kind == "Bert" else {}
  for name in words:
    word = said.word(instead.get(name, name))
    words[name] = word if isinstance(word, str) else words[name]
  return words


def _add(library: tokenizers.Tokenizer, added: Sequence[Added]) -> None:
  """Adds tokens; ValueError where one would have another id than is said."""
  for token, i in added:
    found = library.token_to_id(token.content)
    here = library.get_vocab_size() if found is None else found
    if i not in (None, here):
      raise ValueError(
        f"the token {token.content!r} is said to be id {i}, and would be {here}"
      )
    library.add_tokens([token])


def _as_it_stands(token: AddedToken) -> AddedToken:
  """A token that is looked for in a text before spaces are changed in it."""
  return AddedToken(
    token.content,
    special=token.special,
    normalized=False,
    lstrip=token.lstrip,
    rstrip=token.rstrip,
    single_word=token.single_word,
  )


def _surround(
  library: tokenizers.Tokenizer, first: str | None, last: str | None
) -> None:
  """What stands before and after every text."""
  marks = [word for word in dict.fromkeys((first, last)) if word is not None]
  named: list[tuple[str, Any]] = []
  for word in marks:
    i = library.token_to_id(word)
    if i is None:
      raise ValueError(f"the token {word!r} is named, and there is none")
    named.append((word, i))
  one = lambda text: [*filter(None, (first, text, last))]
  library.post_processor = processors.TemplateProcessing(
    single=one("$A"), pair=[*one("$A"), *one("$B")], special_tokens=named
  )


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except (OSError, ValueError) as e:
    raise ValueError(f"{path.name}: cannot be read ({e})") from e
