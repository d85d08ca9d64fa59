"""A tokenizer.json of ours gives any text the ids that ours gives it."""

import functools
import json

import hypothesis
import jinja2
import pytest
import tokenizers

from llm_jax.data import chat, instructions
from llm_jax.generation import decode
from llm_jax.tokenizers import exported, special, store
from llm_jax.tokenizers.sentencepiece import SPACE
from tests.interop import tiny
from tests.tokenizers.lossless_test import CORPUS, KINDS, texts, tokenizer


@functools.cache
def theirs(kind):
  model, _ = exported.files(tokenizer(kind))
  return tokenizers.Tokenizer.from_buffer(model)


def _in_both(kind, text):
  """Without what is said to be read otherwise there."""
  names = [*special.NAMES]
  if kind != "bytes":
    names.append(SPACE)
  if kind == "unigram":
    names.append("<0x")
  for _ in range(3):  # what is left may be such a name anew
    for name in names:
      text = text.replace(name, "")
  return text


def alike(kind, library, text):
  theirs = library.encode(text, add_special_tokens=False).ids
  ours = tokenizer(kind).encode(text)
  if kind != "unigram" or theirs == ours:
    return theirs == ours
  pieces = tokenizer(kind).pieces()
  told = [[pieces[i][0] for i in ids] for ids in (theirs, ours)]
  likely = [sum(pieces[i][1] for i in ids) for ids in (theirs, ours)]
  same = "".join(told[0]) == "".join(told[1])
  return same and abs(likely[0] - likely[1]) < 1e-5 * abs(likely[1])


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(text=texts)
def test_any_text_has_the_same_ids(kind, text):
  text = _in_both(kind, text)
  assert alike(kind, theirs(kind), text)


@pytest.mark.parametrize("kind", KINDS)
def test_real_text_has_the_same_ids(kind):
  """Every line, and stretches in which a piece is said again and again."""
  lines = [line for text in CORPUS for line in text.split("\n")]
  lines += [c * n for c in ("a", "=", "-", " ", "ab", "\n") for n in range(40)]
  for line in {_in_both(kind, line) for line in lines}:
    assert alike(kind, theirs(kind), line), line


def test_mutants_are_caught():
  said = json.loads(theirs("bpe").to_str())
  said["model"]["merges"].reverse()
  found = tokenizers.Tokenizer.from_str(json.dumps(said))
  assert not alike("bpe", found, _in_both("bpe", CORPUS[0]))
  said = json.loads(theirs("unigram").to_str())
  for its in said["model"]["vocab"]:
    its[1] = -1.0  # the fewest pieces, not the likeliest
  found = tokenizers.Tokenizer.from_str(json.dumps(said))
  assert not alike("unigram", found, _in_both("unigram", CORPUS[0]))


def test_sources_end_with_eos_and_begin_with_nothing():
  ours = tokenizer("bytes")
  model, _ = exported.files(ours, ended=True)
  theirs = tokenizers.Tokenizer.from_buffer(model)
  assert theirs.encode("to be").ids == [*ours.encode("to be"), ours.eos_id]


def _asked(template, made, words):
  """Ids of a question as transformers renders and encodes a chat template."""
  for tag in ("generation", "endgeneration"):
    template = template.replace(f"{{% {tag} %}}", "")
  environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
  text = environment.from_string(template).render(
    messages=[{"role": "user", "content": "to be"}],
    add_generation_prompt=True,
    **words,
  )
  return made.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
  ("kind", "name"),
  [("ours", "plain"), ("ours", "chat"), ("BART", "plain"), ("T5", "plain")],
)
def test_a_question_is_a_whole_source(kind, name, tmp_path):
  """In an exported template as in training: begun, and with eos behind it."""
  if kind == "ours":
    ours = tokenizer("bytes")
  else:
    single = {"BART": "<s> $A </s>", "T5": "$A </s>"}[kind]
    tiny.tokenizer(tmp_path, single=single)
    ours = store.theirs(tmp_path, {})
  model, said = exported.files(ours, ended=kind == "ours")
  words = {key: said[key] for key in ("bos_token", "eos_token")}
  made = tokenizers.Tokenizer.from_buffer(model)
  source = chat.Template(name).source
  ids = instructions.encoder(name, ours)("to be")
  want = decode.framed(ids, ours, apart=True)
  template = exported.template(source, ours, apart=True)
  assert _asked(exported.closed(template), made, words) == want
  mutants = template, exported.template(source, ours)  # open; as of a row
  assert all(_asked(its, made, words) != want for its in mutants)
