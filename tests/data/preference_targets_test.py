"""Prompts as sources, completions as targets: what a decoder's rows hold."""

import numpy as np
import pytest

from llm_jax.data import preference_targets
from llm_jax.data.sides import SourceSide
from tests.data import hosts, preferences_test
from tests.data.preferences_test import BYTES, LABELS, LONG, made, RANKED, ROWS

S = 24
APART = {"source": SourceSide(S), "length": 32}
NAMES = ("source_BS", "source_segment_BS", "source_position_BS")
KINDS = {
  "pairs": ROWS,
  "labels": LABELS,
  "answers": [r | {"label": True} for r in LABELS],
  "classes": LABELS,
  "rankings": RANKED,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("targets")


def examples(batch):
  """(prompt, completion) of every row, its parts in order."""
  assert not batch["prompt_BT"].any()
  assert {"segment_BT", "position_BT"}.isdisjoint(batch)
  out = []
  for b in range(len(batch["target_BT"])):
    source, there, place = (batch[name][b] for name in NAMES)
    n = int(there.sum())
    np.testing.assert_array_equal(there, np.arange(S) < n)
    np.testing.assert_array_equal(place, np.arange(S) * there)
    assert not source[n:].any()
    target, tokens, mask = (
      batch[name][b] for name in ("target_BT", "tokens_BT", "mask_BT")
    )
    size = int(mask.sum())
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < size)
    if size:  # not one that was added to fill a batch
      assert source[n - 1] == BYTES.eos_id
      assert tokens[0] == BYTES.pad_id
      np.testing.assert_array_equal(tokens[1:size], target[: size - 1])
      assert not target[size:].any() and not tokens[size:].any()
    out.append((source[: max(n - 1, 0)].tolist(), target[:size].tolist()))
  return out


def beside(batch):
  """The same of a decoder's rows."""
  return [
    (t[p].tolist(), t[m].tolist())
    for t, p, m in zip(
      *(batch[k] for k in ("target_BT", "prompt_BT", "mask_BT")), strict=True
    )
  ]


def some(data, count=3):
  """Batches of training, and the first one of a whole split."""
  source = data.train(8, 0)
  return [*(source.next() for _ in range(count)), data.held_out("train", 8)[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_hold_what_those_of_a_decoder_do(home, kind):
  file, both = (kind, KINDS[kind]), {"rows": kind}
  one, two = made(home, file, **both), made(home, file, **both, **APART)
  for its, apart in zip(some(one), some(two), strict=True):
    assert examples(apart) == beside(its)
    for name in its.keys() - {"tokens_BT", "target_BT", "mask_BT", "prompt_BT"}:
      np.testing.assert_array_equal(its[name], apart[name])
  assert one.about.keys() < two.about.keys()  # of other rows


def test_mutant_another_prompt_is_caught(home, monkeypatch):
  right = preference_targets.TargetRows._prompt
  monkeypatch.setattr(
    preference_targets.TargetRows, "_prompt", lambda self, of: right(self, 0)
  )
  with pytest.raises(AssertionError):
    test_rows_hold_what_those_of_a_decoder_do(home, "pairs")


def test_the_same_for_any_number_of_hosts_and_as_narrow_as_targets(home):
  whole = hosts.batches(lambda: made(home, **APART), "row_B")
  assert {b["source_BS"].shape[1] for b in whole} == {S}
  widths = {b["target_BT"].shape[1] for b in whole}
  assert max(widths) < 32 and all(w % 4 == 0 for w in widths)


def test_long_ones_are_told_dropped_or_cut(home):
  one = lambda **changes: made(
    home, ("long", LONG), validation=0, test=0, **APART | changes
  )
  with pytest.raises(ValueError) as e:
    one()
  assert str(e.value) == (
    "--data.source.length=24 and --data.length=32: 5 of 86 completions of the"
    " train split or their prompts are longer, the longest 101 and 64 tokens;"
    " raise them, or set --data.too_long=cut or drop"
  )
  (batch,) = one(too_long="drop").held_out("train", 256)
  texts = [tuple(map(BYTES.decode, x)) for x in examples(batch) if x[1]]
  wanted = [(p, c) for p, *both in preferences_test.WANTED for c in both]
  assert sorted(texts) == sorted(wanted)
  data = one(too_long="cut")
  assert "they are cut, and 0 of 43 pairs hold one cut" in data.notes[0]
  (batch,) = data.held_out("train", 256)
  found = [tuple(map(BYTES.decode, x)) for x in examples(batch) if x[1]]
  # Of a source its end is kept, of a target its beginning.
  more = [
    ("p", "c" * 32),
    ("p", "r"),
    ("q" * 21, "lost"),
    ("q" * 21, "as well"),
  ]
  assert sorted(found) == sorted(wanted + more)


def test_a_source_has_room_for_something_of_a_prompt(home):
  for how, length in (("cut", 1), ("drop", 4)):
    its = {"too_long": how, "source": SourceSide(length)}
    with pytest.raises(ValueError) as e:
      made(home, **APART | its).train(8, 0)
    assert str(e.value).startswith(
      "the train split holds no pairs that are short enough for"
      f" --data.source.length={length} and --data.length=32"
    )


def test_they_are_not_packed(home):
  with pytest.raises(ValueError, match=r"^--data.packing=best_fit: .*; one$"):
    made(home, packing="best_fit", **APART)
