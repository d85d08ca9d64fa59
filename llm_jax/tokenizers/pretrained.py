"""Other people's tokenizers, as the `tokenizers` library reads tokenizer.json.

Whether `decode(encode(text)) == text` is theirs to say: a tokenizer that
normalises text (Qwen's NFC, a prefix of a space) gives normalised text back.
Text that looks like a special token is plain text, as everywhere here.
"""

from collections.abc import Mapping, Sequence
import functools
import hashlib
import json
import re
from typing import Any

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from llm_jax.contracts import Located, Marks
from llm_jax.tokenizers import places
from llm_jax.tokenizers.bytes import utf8
from llm_jax.tokenizers.folders import FILE

_MOST = 2**24  # ids
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_IN_BYTE = "(?<=<)(?=0x[0-9A-F]{2}>)"  # where a byte's name is cut
# What ends a turn of a chat, and what may fill rows: the first there is.
_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "</s>")
_PADS = (
  *("<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>"),
  *("<|reserved_special_token_0|>", "<|end_of_text|>"),
)

_MASKS = ("[MASK]", "<mask>")
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
_MODES = {"R": "[NLU]", "S": "[S2S]", "X": "[NLG]"}


class PretrainedTokenizer:
  """Text <-> ids of a tokenizer.json.

  Args:
    model: the file.
    named: {"bos", "eos", "pad": its text or id, or None}.

  Raises:
    ValueError: no tokenizer, or one without a token that ends a text.
  """

  def __init__(self, model: bytes, named: Mapping[str, Any]):
    try:
      library = tokenizers.Tokenizer.from_buffer(model)
    except Exception as e:  # the library raises nothing finer
      raise ValueError(f"{FILE} is no tokenizer ({e})") from e
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    self.model = model  # the file, as it was
    self._library, self._json = library, json.loads(model)
    self._encoder = _of_plain_text(self._json) or library
    self.vocab_size = 1 + max(library.get_vocab(True).values(), default=-1)
    if not self.vocab_size:
      raise ValueError(f"{FILE}: has no token at all")
    if self.vocab_size > _MOST:  # arrays of all ids are made
      raise ValueError(
        f"{FILE}: names the id {self.vocab_size - 1}; at most {_MOST - 1}"
      )
    added = library.get_added_tokens_decoder()
    self._special = {t.content: i for i, t in added.items() if t.special}
    eos, bos = self._id(named.get("eos")), self._id(named.get("bos"))
    if eos is None:
      raise ValueError(f"{FILE}: nothing says which token ends a text (eos)")
    self.eos_id = eos
    self.bos_id = eos if bos is None else bos
    # Where the library puts one in front of a text, it begins every text.
    begins = library.encode("", add_special_tokens=True).ids[:1]
    self.start_id = self.bos_id if begins == [self.bos_id] else self.eos_id
    pad = self._id(named.get("pad"))  # Qwen's is what it names bos, too
    taken = None, self.eos_id, self.start_id
    if pad in taken:
      known = (self._special.get(word) for word in _PADS)
      pad = next((i for i in known if i not in taken), self.eos_id)
    self.pad_id = pad
    ends = (self._special.get(word) for word in _ENDS)
    end = next((i for i in ends if i is not None), self.eos_id)
    self.role_ids = {**self._special, "end": end}
    self.marks = _marks(self._special)
    self.fingerprint = hashlib.blake2b(
      b"pretrained-1" + model + json.dumps(dict(named)).encode(),
      digest_size=16,
    ).hexdigest()

  def encode(self, text: str) -> list[int]:
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    for text in texts:
      utf8(text)
    found = self._encoder.encode_batch_fast(
      list(texts), add_special_tokens=False
    )
    return [its.ids for its in found]

  def locate(self, texts: Sequence[str]) -> list[Located]:
    for text in texts:
      utf8(text)
    found = self._library.encode_batch(list(texts), add_special_tokens=False)
    return [self._located(t, its) for t, its in zip(texts, found, strict=True)]

  def _located(self, text: str, its: Any) -> Located:
    """As the library says, or where text is kept whole, by bytes.

    What the library says of characters of several bytes is not always so.
    """
    if self._is_of_bytes:
      sizes = self._sizes[np.array(its.ids, int)]
      if sizes.sum() == len(text.encode()) and self.decode(its.ids) == text:
        return Located(its.ids, places.of_bytes(text, sizes))
    place_N2 = np.array(its.offsets, np.int32).reshape(-1, 2)
    return Located(its.ids, place_N2)

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    return self.token_bytes()

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids; special ones, and those of no token, are out."""
    known = [int(i) for i in ids if 0 <= int(i) < self.vocab_size]
    return self._library.decode(known, skip_special_tokens=True)

  def token_bytes(self) -> np.ndarray:
    """Bytes of each id; a space that decoding takes away is counted, too."""
    out = np.zeros(self.vocab_size, np.int32)
    special = set(self._special.values())
    added = self._library.get_added_tokens_decoder()
    for token, i in self._library.get_vocab(True).items():
      if i in special:
        continue
      if i in added:
        out[i] = len(token.encode())
      elif self._is_of_bytes:
        out[i] = len(token)  # a character a byte
      elif _BYTE.fullmatch(token):
        out[i] = 1
      else:
        out[i] = len(token.replace("\u2581", " ").encode())
    return out

  def word(self, i: int) -> str:
    """How a token is written."""
    word: str | None = self._library.id_to_token(i)
    return word or ""

  @functools.cached_property
  def _is_of_bytes(self) -> bool:
    return '"ByteLevel"' in json.dumps(self._json.get("decoder"))

  def _id(self, named: Any) -> int | None:
    if isinstance(named, str):
      return self._library.token_to_id(named)
    if named is not None and type(named) is not int:
      raise ValueError(
        f"{FILE}: {named!r:.80} is named as a token, and is none"
      )
    known = named is not None and 0 <= named < self.vocab_size
    return named if known else None  # some say -1 where there is none


def _of_plain_text(found: dict[str, Any]) -> tokenizers.Tokenizer | None:
  """The same, to which names of special tokens and of bytes are text.

  A unigram model takes every piece that it finds, these among them.
  """
  if (found.get("model") or {}).get("type") != "Unigram":
    return None
  added = found.get("added_tokens") or []
  special = {its["id"] for its in added if its["special"]}
  pieces = [
    [f"\0{__name__} {i}\0" if i in special else piece, score]
    for i, (piece, score) in enumerate(found["model"]["vocab"])
  ]
  made = found | {"model": found["model"] | {"vocab": pieces}}
  made |= {"post_processor": None, "truncation": None, "padding": None}
  made["added_tokens"] = [its for its in added if not its["special"]]
  library = tokenizers.Tokenizer.from_str(json.dumps(made))
  if found["model"].get("byte_fallback"):
    cut: Any = pre_tokenizers.Split(tokenizers.Regex(_IN_BYTE), "isolated")
    before = [] if library.pre_tokenizer is None else [library.pre_tokenizer]
    library.pre_tokenizer = pre_tokenizers.Sequence([*before, cut])
  return library


def _marks(special: Mapping[str, int]) -> Marks:
  """Masks as BERT's, sentinels as T5's, modes as UL2's, where there are any."""
  found = ((_SENTINEL.fullmatch(word), i) for word, i in special.items())
  numbered = sorted((int(its[1]), i) for its, i in found if its)
  return Marks(
    next((special[word] for word in _MASKS if word in special), None),
    tuple(i for _, i in numbered),
    {mode: special[word] for mode, word in _MODES.items() if word in special},
  )
