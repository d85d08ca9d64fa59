"""A tokenizer's folder: trained once, whole or not there."""

import dataclasses
import json

import pytest

from llm_jax.tokenizers import store
from llm_jax.tokenizers.bytes import Bytes, ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece
from tests.interop import tiny

TEXT = "to be or not to be, that is\tthe question\n" * 20
SETTINGS = [
  Bytes(),
  SentencePiece(kind="bpe", vocab_size=290),
  SentencePiece(kind="unigram", vocab_size=284),
  SentencePiece(kind="char"),
  SentencePiece(kind="char", byte_fallback=False),
]


def never():
  raise AssertionError("trained again")


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_made_once_then_found(settings, tmp_path):
  first = store.obtain(settings, lambda: iter([TEXT]), tmp_path)
  again = store.obtain(settings, never, tmp_path)
  assert again.fingerprint == first.fingerprint
  assert again.encode(TEXT) == first.encode(TEXT)
  assert again.decode(again.encode(TEXT)) == TEXT
  assert not list(tmp_path.glob("*.partial"))


def test_fingerprints_differ(tmp_path):
  made = [
    store.obtain(s, lambda: iter([TEXT]), tmp_path / str(i)).fingerprint
    for i, s in enumerate(SETTINGS)
  ]
  assert len(set(made)) == len(made)


def test_killed_before_the_last_file_is_trained_anew(tmp_path):
  settings = SETTINGS[1]
  store.obtain(settings, lambda: iter([TEXT]), tmp_path)
  (tmp_path / "tokenizer.json").unlink()
  (tmp_path / "sentencepiece.model").write_bytes(b"half")
  assert store.obtain(settings, lambda: iter([TEXT]), tmp_path).encode(TEXT)


@pytest.mark.parametrize("index", [1, 3])
def test_a_damaged_folder_is_refused(index, tmp_path):
  store.obtain(SETTINGS[index], lambda: iter([TEXT]), tmp_path)
  (model,) = (p for p in tmp_path.iterdir() if p.name != "tokenizer.json")
  model.write_bytes(model.read_bytes()[:-1])
  with pytest.raises(ValueError, match="no whole tokenizer"):
    store.load(tmp_path)
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(ValueError, match="no whole tokenizer"):
    store.load(tmp_path)


def test_copy_takes_over_once(tmp_path):
  a, b = tmp_path / "a", tmp_path / "b"
  with pytest.raises(ValueError, match="no whole tokenizer"):
    store.copy(a, b)
  made = store.obtain(SETTINGS[1], lambda: iter([TEXT]), a)
  store.copy(a, b)
  assert store.load(b).fingerprint == made.fingerprint
  other = store.obtain(SETTINGS[0], never, tmp_path / "c")
  store.copy(tmp_path / "c", b)  # b keeps its own
  assert store.load(b).fingerprint == made.fingerprint != other.fingerprint


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_extra_ids_stand_behind_all_others_for_no_text(settings, tmp_path):
  texts = lambda: iter([TEXT])
  plain = store.obtain(settings, texts, tmp_path / "plain")
  more = dataclasses.replace(settings, extra_ids=5)
  made = store.obtain(more, texts, tmp_path / "more")
  V = plain.vocab_size
  assert made.vocab_size == V + 5
  assert made.marks.sentinels == tuple(range(V, V + 5))
  assert made.marks.mask == plain.marks.mask and not plain.marks.sentinels
  ids = plain.encode(TEXT)
  assert made.encode(TEXT) == ids and made.encode_batch([TEXT]) == [ids]
  assert made.decode([V, *ids, V + 4]) == TEXT
  assert made.token_bytes().tolist() == [
    *plain.token_bytes().tolist(),
    *[0] * 5,
  ]
  assert made.fingerprint not in (plain.fingerprint, "")
  again = store.load(tmp_path / "more")
  assert again.fingerprint == made.fingerprint
  # A mark is no text, and no two marks are one.
  marks = [made.marks.mask, *made.marks.modes.values(), *made.marks.sentinels]
  assert len(set(marks)) == len(marks) == 9
  assert made.decode(marks) == "" and not made.token_bytes()[marks].any()


def test_folders_without_extra_ids_are_read_as_ever(tmp_path):
  """As they were written before there were any."""
  for i, settings in enumerate(SETTINGS):
    made = store.obtain(settings, lambda: iter([TEXT]), tmp_path / str(i))
    path = tmp_path / str(i) / "tokenizer.json"
    about = json.loads(path.read_text())
    del about["settings"]["extra_ids"]
    if not about["settings"]:
      del about["settings"]
    path.write_text(json.dumps(about))
    assert store.load(path.parent).fingerprint == made.fingerprint
  # Made by the first version.
  assert ByteTokenizer.fingerprint == "bytes-1"


@pytest.mark.parametrize(
  ("single", "pad", "found"),
  [
    ("$A", "<s>", 1),  # Qwen 3: what it names bos stands nowhere
    ("<s> $A", "<s>", 0),  # begins texts: another, <pad>
    ("$A", "</s>", 0),  # ends them
    ("$A", None, 0),
  ],
)
def test_padding_is_what_a_folder_names_where_texts_have_it_not(
  single, pad, found, tmp_path
):
  tiny.tokenizer(tmp_path, single=single)
  said = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": pad}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
  assert store.theirs(tmp_path, {}).pad_id == found
