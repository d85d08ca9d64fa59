"""Texts between special ids, as transformers' tokenizers put them there."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from llm_jax.data import framing
from llm_jax.data.framing import Frame, shortened
from llm_jax.data.sides import SourceSide
from llm_jax.tokenizers import store
from tests.tokenizers import older_test

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "framing.json"
GOLD = json.loads(PATH.read_text(encoding="utf-8"))
BERT, ROBERTA = Frame(101, 102), Frame(0, 2, between=2)


def test_one_text_and_two_are_berts():
  """[CLS] a [SEP] b [SEP], with types as transformers gives them."""
  alone = BERT([7, 8])
  assert alone.ids.tolist() == [101, 7, 8, 102]
  assert alone.types.tolist() == [0, 0, 0, 0]
  pair = BERT([7, 8], [9])
  assert pair.ids.tolist() == [101, 7, 8, 102, 9, 102]
  assert pair.types.tolist() == [0, 0, 0, 0, 1, 1]
  assert ROBERTA([7], [9]).ids.tolist() == [0, 7, 2, 2, 9, 2]
  assert BERT([], []).ids.tolist() == [101, 102, 102]
  for frame in (BERT, ROBERTA, Frame(1, 2, between=0)):
    assert len(frame([5] * 4).ids) == 4 + frame.added(False)
    assert len(frame([5] * 4, [6]).ids) == 5 + frame.added(True)


def test_a_row_says_where_it_is_padded():
  row = BERT([7, 8], [9]).row(8)
  assert row["tokens_BT"].tolist() == [101, 7, 8, 102, 9, 102, 0, 0]
  assert row["segment_BT"].tolist() == [1] * 6 + [0, 0]
  assert row["position_BT"].tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
  assert row["type_BT"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
  assert not row["mask_BT"].any() and row["mask_BT"].dtype == bool
  np.testing.assert_array_equal(row["target_BT"], row["tokens_BT"])


def test_a_source_is_written_again_behind_its_start():
  """The rows that transformers' BART and T5 make of `input_ids` alone."""
  row = Frame(0, 2, between=2, first_id=9)([7, 8], [5]).row(8)
  assert row["source_BS"].tolist() == [0, 7, 8, 2, 2, 5, 2, 0]
  assert row["tokens_BT"].tolist() == [9, 0, 7, 8, 2, 2, 5, 0]
  assert row["target_BT"].tolist() == row["source_BS"].tolist()
  for side in ("", "source_"):
    end = "S" if side else "T"
    assert row[f"{side}segment_B{end}"].tolist() == [1] * 7 + [0]
    assert row[f"{side}position_B{end}"].tolist() == [*range(7), 0]
  assert not row["mask_BT"].any() and row["mask_BT"].dtype == bool


def test_a_tokenizer_without_a_start_puts_none_before_a_source():
  """T5's: a eos b eos."""

  class Tokenizer:
    start_id, bos_id, eos_id, pad_id = 1, 1, 1, 0

  frame = Frame.of(Tokenizer, source=SourceSide(8, "pad"))
  assert frame == Frame(None, 1, 1, first_id=0)
  found = frame([7, 8], [5])
  assert found.ids.tolist() == [7, 8, 1, 5, 1]
  assert found.types.tolist() == [0, 0, 0, 1, 1]
  assert frame([7]).ids.tolist() == [7, 1]
  assert (frame.before, frame.added(False), frame.added(True)) == (0, 1, 2)
  # A decoder's text begins with what ended the one before it.
  assert Frame.of(Tokenizer)([7]).ids.tolist() == [1, 7, 1]


def id_by_id(first, second, room):
  """`longest_first` of transformers, one id at a time."""
  shorter = 1 if first > second else 0
  sizes = [first, second]
  while sum(sizes) > room:
    sizes[shorter if sizes[0] == sizes[1] else sizes[1] > sizes[0]] -= 1
  return tuple(sizes)


def check(cut):
  for first in range(9):
    for second in range(9):
      for room in range(1, 18):
        want = id_by_id(first, second, room)
        assert cut(first, second, room) == want, (first, second, room)


def test_the_longer_text_loses_its_end():
  check(shortened)


@pytest.mark.parametrize(
  "mutant",
  [
    lambda a, b, room: (min(a, max(0, room - b)), b),  # the first one alone
    lambda a, b, room: shortened(b, a, room)[::-1],  # of two alike the first
  ],
)
def test_mutants_other_ways_to_cut_are_caught(mutant):
  with pytest.raises(AssertionError):
    check(mutant)


def test_a_frame_has_the_ids_that_a_tokenizer_begins_and_ends_texts_with():
  class Tokenizer:
    start_id, bos_id, eos_id = 5, 6, 7

  found = framing.Frame.of(Tokenizer, between=2)
  assert found == Frame(5, 7, 2)


@pytest.mark.parametrize("name,between", [("bert", 1), ("roberta", 2)])
def test_pairs_are_framed_as_transformers_frames_them(name, between, tmp_path):
  folder = older_test.write(tmp_path, name)
  tokenizer = store.theirs(folder, {"model_type": name})
  frame = Frame.of(tokenizer, between)
  cases = itertools.product((64, 12), GOLD["pairs"])
  for (length, (a, b)), want in zip(cases, GOLD[name], strict=True):
    first = tokenizer.encode(a)
    second = None if b is None else tokenizer.encode(b)
    room = length - frame.added(second is not None)
    if second is None:
      found = frame(first[:room])
    else:
      size, other = shortened(len(first), len(second), room)
      found = frame(first[:size], second[:other])
    assert found.ids.tolist() == want["ids"], (length, a, b)
    if want["types"] is not None:
      assert found.types.tolist() == want["types"]
    # An encoder-decoder reads the same, and writes it behind its own start.
    apart = Frame.of(tokenizer, between, SourceSide(length, "eos"))
    assert apart == frame._replace(first_id=tokenizer.eos_id)
    assert (
      apart(first[:1], [5]).ids.tolist() == frame(first[:1], [5]).ids.tolist()
    )
  # Mutant: as many tokens between as the other has.
  other = Frame.of(tokenizer, 3 - between)
  a, b = (tokenizer.encode(text) for text in GOLD["pairs"][0])
  assert other(a, b).ids.tolist() != GOLD[name][0]["ids"]
