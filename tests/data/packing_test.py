"""Rows hold the documents exactly; each token is a target once."""

import time

import jax
import numpy as np
import pytest

from llm_jax.data import packing
from llm_jax.data.packing import BestFit, Cut, InOrder
from llm_jax.data.tokens import Tokens
from tests import small
from tests.data.rows import epoch, numbered, random_sizes, START, targets

SIZES = random_sizes()
TOKENS = numbered(SIZES)
FIRST, LAST = TOKENS.offsets[:-1], TOKENS.offsets[1:] - 1
T = 16
MAKERS = {
  "cut": lambda tokens=TOKENS: Cut(tokens, T, (1,)),
  "best_fit": lambda tokens=TOKENS: BestFit(tokens, T, (1,)),
  "best_fit in order": lambda tokens=TOKENS: BestFit(tokens, T, None),
  "in order": lambda tokens=TOKENS: InOrder(tokens, T),
}


def context(row):
  """{target: the token it is predicted from}."""
  keep = row["mask_BT"]
  return dict(zip(row["target_BT"][keep], row["tokens_BT"][keep], strict=True))


def repeats(rows):
  """How many targets come more than once."""
  found = targets(rows)
  return len(found) - len(set(found.tolist()))


@pytest.mark.parametrize("name", MAKERS)
def test_shapes_and_types(name):
  row = MAKERS[name]().row(0, 0)
  wide = {"tokens_BT", "target_BT", "mask_BT"}
  if "fit" in name:
    wide |= {"segment_BT", "position_BT"}
  assert set(row) == wide
  for key, value in row.items():
    assert value.shape == (T,)
    assert value.dtype == (bool if key == "mask_BT" else np.int32)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("number", [0, 1, 7])
def test_each_token_is_a_target_once(name, number):
  rows = epoch(MAKERS[name](), number)
  assert repeats(rows) == 0
  left_out = len(TOKENS) - len(targets(rows))
  assert 0 <= left_out < (2 * T if name == "cut" else 1)


@pytest.mark.parametrize("name", MAKERS)
def test_each_token_is_predicted_from_the_one_before(name):
  for row in epoch(MAKERS[name](), 3):
    for target, before in context(row).items():
      if target not in FIRST:
        assert before == target - 1
      elif "fit" in name or (name == "in order" and target == 0):
        assert before == START
      else:  # the end of another document, or the start of all
        assert before in LAST or before == START


@pytest.mark.parametrize("name", ["cut", "best_fit"])
def test_epochs_differ_and_come_again(name):
  rows = MAKERS[name]()
  one, two = targets(epoch(rows, 0)), targets(epoch(rows, 1))
  assert one.tolist() != two.tolist()
  again = MAKERS[name]()
  np.testing.assert_array_equal(targets(epoch(again, 1)), two)
  np.testing.assert_array_equal(targets(epoch(again, 0)), one)
  other = type(rows)(TOKENS, T, (2,))
  assert targets(epoch(other, 0)).tolist() != one.tolist()


def test_cut_rows_end_elsewhere_in_each_epoch():
  one_document = numbered([1000])
  firsts = {Cut(one_document, T, (e,))._plan(e)[2] for e in range(30)}
  assert len(firsts) > 5


def test_in_order_is_the_text():
  rows = epoch(InOrder(TOKENS, T))
  np.testing.assert_array_equal(targets(rows), TOKENS.ids)
  assert rows[-1]["mask_BT"].sum() == len(TOKENS) % T
  assert not rows[-1]["target_BT"][len(TOKENS) % T :].any()


@pytest.mark.parametrize("name", ["best_fit", "best_fit in order"])
def test_best_fit_segments_are_the_documents(name):
  pieces = []
  for row in epoch(MAKERS[name]()):
    segment = row["segment_BT"]
    np.testing.assert_array_equal(row["mask_BT"], segment > 0)
    count = segment.max()
    assert set(segment[segment > 0]) == set(range(1, count + 1))
    for s in range(1, count + 1):
      at = np.flatnonzero(segment == s)
      np.testing.assert_array_equal(np.diff(at), 1)
      position = row["position_BT"][at]
      np.testing.assert_array_equal(position, range(len(at)))
      pieces.append(row["target_BT"][at])
  pieces.sort(key=lambda p: p[0])
  np.testing.assert_array_equal(np.concatenate(pieces), TOKENS.ids)
  borders = set(FIRST.tolist())
  for piece in pieces:  # never two documents, and cut at T only
    assert not borders & set(piece[1:].tolist())
    assert piece[-1] in LAST or len(piece) == T


def test_best_fit_known_answer():
  # Longest first, into the fullest row with room: 7+1, 6+2, 5+3.
  rows = epoch(BestFit(numbered([3, 7, 1, 6, 5, 2]), 8, None))
  found = [np.diff(np.flatnonzero(r["position_BT"] == 0)) for r in rows]
  assert len(rows) == 3 and all(r["mask_BT"].all() for r in rows)
  assert sorted(d[0] for d in found if len(d)) == [5, 6, 7]


def test_best_fit_wastes_little():
  sizes = random_sizes(3, 5000, 200)
  rows = BestFit(numbered(sizes), 256, (0,))
  assert sizes.sum() / (len(rows) * 256) > 0.99


def test_a_million_documents_are_planned_in_seconds():
  sizes = random_sizes(0, 10**6, 40)
  tokens = numbered(sizes)
  start = time.process_time()
  Cut(tokens, 256, (0,)).row(0, 5)
  BestFit(tokens, 256, (0,)).row(0, 5)
  assert time.process_time() - start < 15  # 1.5 on a quiet machine


def test_mutant_rows_that_step_too_little_are_caught():
  class Mutant(Cut):
    def _stream(self, order, ends, start, count):
      return super()._stream(order, ends, start - start // self._length, count)

  assert repeats(epoch(Mutant(TOKENS, T, (1,)))) > 0


def test_mutant_unshifted_targets_are_caught():
  row = dict(MAKERS["cut"]().row(0, 0))
  row["tokens_BT"] = row["target_BT"]
  wrong = [t for t, b in context(row).items() if t not in FIRST and b != t - 1]
  assert wrong


def test_mutant_first_fit_in_order_wastes_more(monkeypatch):
  def next_fit(pieces, size, length):
    rows, room = [], 0
    for p in pieces.tolist():
      if size[p] > room:
        rows.append([])
        room = length
      rows[-1].append(p)
      room -= size[p]
    return np.concatenate(rows), np.array([len(r) for r in rows])

  monkeypatch.setattr(packing, "_best_fit", next_fit)
  sizes = random_sizes(3, 5000, 200)
  rows = BestFit(numbered(sizes), 256, (0,))
  assert sizes.sum() / (len(rows) * 256) < 0.9


@pytest.mark.parametrize("pack", [Cut, BestFit, InOrder])
def test_nothing_to_pack(pack):
  empty = Tokens(np.zeros(0, np.uint16), np.zeros(1, np.int64), 2)
  with pytest.raises(ValueError, match=r"--data\.length=8|holds no documents"):
    pack(empty, 8, *([] if pack is InOrder else [(0,)]))


@pytest.mark.parametrize("size", [16, 17, 31, 32, 33])
def test_cut_of_few_tokens(size):
  rows = Cut(numbered([size]), 16, (0,))
  assert len(rows) == 1
  for number in range(5):
    assert repeats(epoch(rows, number)) == 0


def test_packed_equals_unpacked():
  """Log-probs of a packed row are those of each document on its own."""
  r = np.random.default_rng(0)
  sizes = np.array([5, 3, 7, 2, 6, 9, 4])
  ids = r.integers(0, small.DIMS.V, sizes.sum())
  tokens = Tokens(ids, np.concatenate([[0], np.cumsum(sizes)]), 1)
  rows = epoch(BestFit(tokens, 12, (0,)))
  batch = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
  alone = {}
  with jax.enable_x64(True):
    model, variables = small.build()
    score = small.score_fn(model)
    packed = np.asarray(jax.jit(score)(variables, batch).logp_BT)
    for d, n in enumerate(sizes):
      row = epoch(InOrder(Tokens(ids[tokens.offsets[d] :][:n], None, 1), 12))[0]
      one = {k: v[None] for k, v in row.items()}
      alone[d] = np.asarray(score(variables, one).logp_BT)[0, :n]
    mutant = {k: batch[k] for k in ("tokens_BT", "target_BT", "mask_BT")}
    seen_across = np.asarray(jax.jit(score)(variables, mutant).logp_BT)
  want = {tuple(v.round(9)) for v in alone.values()}

  def pieces(logp):
    out = set()
    for row, segment in zip(logp, batch["segment_BT"], strict=True):
      for s in range(1, segment.max() + 1):
        out.add(tuple(row[segment == s].round(9)))
    return out

  assert pieces(packed) == want
  assert pieces(seen_across) != want  # the mutant: documents see each other
