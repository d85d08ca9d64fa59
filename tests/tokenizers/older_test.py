"""Folders without tokenizer.json: the ids are those of transformers."""

import base64
import functools
import io
import json
import pathlib

import hypothesis
from hypothesis import strategies as st
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from llm_jax.tokenizers import folders, older, sentencepiece_models, store
from llm_jax.tokenizers.pretrained import PretrainedTokenizer
from tests.tokenizers.lossless_test import CORPUS, ODD

GOLDENS = json.loads(
  (pathlib.Path(__file__).parent.parent / "goldens/tokenizers.json").read_text()
)


def write(folder, name, **said):
  """The folder of a golden; more settings of its tokenizer_config.json."""
  for file, data in GOLDENS[name]["files"].items():
    (folder / file).write_bytes(base64.b64decode(data))
  path = folder / "tokenizer_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | said))
  return folder


@pytest.mark.parametrize("name", GOLDENS)
def test_ids_are_those_of_transformers(name, tmp_path):
  want = GOLDENS[name]
  t = store.theirs(write(tmp_path, name), {"model_type": name})
  assert t.vocab_size == want["size"]
  assert {x: t.encode(x) for x in want["ids"] if "[CLS]" not in x} == {
    x: ids for x, ids in want["ids"].items() if "[CLS]" not in x
  }
  named = want["named"]
  assert t.eos_id == named["eos"] or name == "bert" and t.word(t.eos_id)
  assert named["pad"] in (None, t.pad_id)
  assert t.marks.mask == named["mask"]
  whole = t._library.encode(next(iter(want["ids"]))).ids
  begins = {"llama": [t.bos_id]}.get(name, [])  # the reference puts none
  assert whole == begins + want["whole"]
  alone = {"t5": t.eos_id, "gpt2": t.eos_id}
  assert t.start_id == alone.get(name, whole[0])
  if name == "t5":
    assert list(t.marks.sentinels) == want["sentinels"]


def test_what_looks_like_a_special_token_is_text(tmp_path):
  for name in GOLDENS:
    folder = tmp_path / name
    folder.mkdir()
    t = store.theirs(write(folder, name), {"model_type": name})
    special = {t.eos_id, t.bos_id, t.pad_id, t.marks.mask}
    for word in map(t.word, (t.eos_id, t.bos_id, t.pad_id)):
      assert not special & set(t.encode(f"a {word} b"))


def test_a_tokenizer_json_goes_before(tmp_path):
  folder = write(tmp_path, "t5")
  made = older.made(folders.Said(folder, {}))
  (folder / "tokenizer.json").write_bytes(made.model)
  (folder / "spiece.model").write_bytes(b"no model at all")
  t = store.theirs(folder, {"eos_token_id": 1})
  assert t.encode("the fox") == PretrainedTokenizer(
    made.model, {"eos": 1}
  ).encode("the fox")


def test_a_run_keeps_what_was_made(tmp_path):
  folder, run = tmp_path / "theirs", tmp_path / "run"
  folder.mkdir()
  write(folder, "llama")
  store.adopt(folder, {}, run)
  (folder / "tokenizer.model").unlink()
  t = store.load(run)
  ids = GOLDENS["llama"]["ids"]
  assert {x: t.encode(x) for x in ids} == ids


@functools.cache
def pieces(**settings):
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter("\n".join(CORPUS).split("\n")),
    model_writer=out,
    vocab_size=420,
    minloglevel=3,
    num_threads=1,
    max_sentence_length=20_000,
    hard_vocab_limit=False,
    **settings,
  )
  return out.getvalue()


_WHOLE = {"normalization_rule_name": "identity", "byte_fallback": True} | {
  "remove_extra_whitespaces": False,
}
MODELS = {
  "llama": {"model_type": "bpe", **_WHOLE},
  "gemma": {
    "model_type": "bpe",
    "add_dummy_prefix": False,
    "user_defined_symbols": "<b>,\n\n,\t\t",
    **_WHOLE,
  },
  "t5": {"model_type": "unigram", "byte_fallback": False},
  "unigram": {"model_type": "unigram", **_WHOLE},
  "bpe": {"model_type": "bpe", "byte_fallback": False},
}
# Without marks that combine with letters, see `sentencepiece_models`.
texts = st.lists(
  st.sampled_from(
    [x for x in ODD if not x.endswith("\u0301")] + ["aaaa", "def ", "----"]
  )
  | st.text(st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me"])),
  max_size=8,
).map("".join)


@functools.cache
def both(name):
  """SentencePiece's own, and what is made of its model."""
  data = pieces(**MODELS[name])
  library, words = sentencepiece_models.converted(data, "tokenizer.model")
  ours = PretrainedTokenizer(library.to_str().encode(), words)
  return sentencepiece.SentencePieceProcessor(model_proto=data), ours


@pytest.mark.parametrize("name", MODELS)
@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(text=texts)
def test_ids_are_those_of_sentencepiece(name, text):
  library, ours = both(name)
  ids = ours.encode(text)
  assert ids == library.encode(text)
  if name in ("llama", "gemma", "unigram") and "\u2581" not in text:
    assert ours.decode(ids) == text  # no text is lost


def edited(name, change):
  """A model that says one thing otherwise."""
  its = sentencepiece_model_pb2.ModelProto.FromString(pieces(**MODELS[name]))
  change(its)
  return its.SerializeToString()


def _no_prefix(its):
  its.normalizer_spec.add_dummy_prefix = False


def _other_scores(its):
  for piece in its.pieces:
    piece.score = -piece.score


def _no_defined(its):
  for piece in its.pieces:
    piece.type = 3 if piece.type == 4 else piece.type


@pytest.mark.parametrize(
  "name,change",
  [
    ("llama", _no_prefix),
    ("llama", _other_scores),
    ("unigram", _other_scores),
    ("gemma", _no_defined),
  ],
)
def test_mutants_are_caught(name, change):
  library, _ = both(name)
  other, words = sentencepiece_models.converted(edited(name, change), "m")
  other = PretrainedTokenizer(other.to_str().encode(), words)
  text = f"x\n\n    return '<b>' + {CORPUS[0][:500]}"
  assert other.encode(text) != library.encode(text)


def _kept(its):
  its.normalizer_spec.escape_whitespaces = False


def _unused(its):
  its.pieces[300].type = 5


def _word(its):
  its.trainer_spec.model_type = 3


def _no_score(its):
  its.pieces[300].score = float("nan")


REFUSED = [
  (_no_score, "has the score nan; scores are finite numbers"),
  (b"IQ== 0\nIg== 1\n", r"tiktoken kind .*save the folder with transformers"),
  (b"", "is no model of SentencePiece"),
  (b"\xff\x00nothing", "is no model of SentencePiece"),
  (_kept, "spaces as they are"),
  (_unused, "pieces that are not in use"),
  (_word, "neither unigram nor bpe"),
]


@pytest.mark.parametrize("data,said", REFUSED)
def test_models_that_are_refused(data, said, tmp_path):
  data = data if isinstance(data, bytes) else edited("llama", data)
  (tmp_path / "tokenizer.model").write_bytes(data)
  with pytest.raises(ValueError, match=f"tokenizer.model: .*{said}") as e:
    store.theirs(tmp_path, {})
  assert "\n" not in str(e.value)


SAID = [
  ("llama", {"add_bos_token": "yes"}, "add_bos_token='yes'"),
  ("llama", {"bos_token": "<nowhere>"}, None),
  ("llama", {"added_tokens_decoder": [1]}, "added_tokens_decoder"),
  ("llama", {"added_tokens_decoder": {"x": "<a>"}}, "'x' is no id"),
  (
    "llama",
    {"added_tokens_decoder": {"500": "<a>"}},
    "'<a>' is said to be id 500, and would be 380",
  ),
  ("llama", {"additional_special_tokens": "<a>"}, "is no list"),
  ("llama", {"additional_special_tokens": [3]}, "3 is named as a token"),
  ("t5", {"extra_ids": -1}, "extra_ids=-1"),
  ("bert", {"unk_token": "[NONE]"}, r"has no '\[NONE\]' \(unk_token\)"),
  ("bert", {"tokenizer_class": "XTokenizer"}, "tokenizer_class is XTokenizer"),
  ("gpt2", {"tokenizer_class": "Qwen2Tokenizer"}, "Qwen2Tokenizer"),
]


@pytest.mark.parametrize("name,said,wrong", SAID)
def test_settings_that_are_refused(name, said, wrong, tmp_path):
  folder = write(tmp_path, name, **said)
  if wrong is None:  # a special token that is not there yet is added
    t = store.theirs(folder, {})
    assert t.word(t.bos_id) == "<nowhere>" and t.start_id == t.bos_id
    return
  with pytest.raises(ValueError, match=wrong) as e:
    store.theirs(folder, {"model_type": name})
  assert "\n" not in str(e.value)


def test_a_word_of_two_ids_is_refused(tmp_path):
  path = write(tmp_path, "bert") / "vocab.txt"
  lines = path.read_text().split("\n")
  path.write_text("\n".join([*lines[:9], f"{lines[6]}\r", *lines[9:]]))
  said = f"^vocab.txt: line 10 has {lines[6]!r}, as line 7 has: a token of two"
  with pytest.raises(ValueError, match=said):
    store.theirs(tmp_path, {"model_type": "bert"})


def test_a_folder_without_any(tmp_path):
  with pytest.raises(ValueError, match=r"no tokenizer\.json, nor tokenizer"):
    store.theirs(tmp_path, {})


def test_tokens_of_the_oldest_files(tmp_path):
  """added_tokens.json and special_tokens_map.json, as before 2023."""
  folder = write(tmp_path, "llama", added_tokens_decoder=None, eos_token=None)
  added = {"<|im_start|>": 381, "<plain>": 380}
  (folder / "added_tokens.json").write_text(json.dumps(added))
  special = {"eos_token": "</s>", "additional_special_tokens": ["<|im_start|>"]}
  (folder / "special_tokens_map.json").write_text(json.dumps(special))
  t = store.theirs(folder, {})
  assert t.eos_id == 2 and t.role_ids["<|im_start|>"] == 381
  assert t.encode("x<plain>")[-1] == 380
  assert 381 not in t.encode("<|im_start|>")
