"""Texts between special ids, as transformers' tokenizers put them there."""

import numpy as np
import pytest

from llm_jax.data import framing
from llm_jax.data.framing import Frame, shortened

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


def id_by_id(first, second, room):
  """`longest_first` of transformers, in its words: one id at a time."""
  while first + second > room:
    if first > second:
      first -= 1
    else:
      second -= 1
  return first, second


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
    lambda a, b, room: shortened(b, a, room)[::-1],  # ties the other way
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
