"""The stream is one, whatever the processes; its position is one number."""

import itertools

import numpy as np
import pytest

from llm_jax.data.arrays import Shuffled
from llm_jax.data.batches import Finite, Offline
from llm_jax.data.packing import BestFit, Cut, InOrder
from tests.data.rows import numbered, random_sizes, targets

B, T = 8, 16


def parts(count=2):
  """Rows of several sources, told apart by their ids."""
  out = []
  for i in range(count):
    tokens = numbered(random_sizes(i, 40 + 30 * i))
    ids = tokens.ids + np.uint32(100_000 * i)
    out.append(Cut(type(tokens)(ids, tokens.offsets, 0), T, (5, i)))
  return out


def mixture(block=(0, 1), weights=(1, 3)):
  return Offline(parts(), weights, B, block)


def alone(block=(0, 1)):
  return Shuffled(parts(1)[0], B, block)


def fit(block=(0, 1)):
  rows = BestFit(numbered(random_sizes()), T, (0,))
  return Offline([rows], [1], B, block)


SOURCES = [mixture, alone, fit]


def take(source, count):
  return [source.next() for _ in range(count)]


def assert_same(a, b):
  for one, two in zip(a, b, strict=True):
    assert set(one) == set(two)
    for key in one:
      assert one[key].dtype == two[key].dtype
      np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def joined(batches):
  """Blocks of several processes as the global batches."""
  return [
    {k: np.concatenate([b[k] for b in blocks]) for k in blocks[0]}
    for blocks in zip(*batches, strict=True)
  ]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_stream_does_not_depend_on_processes(make, count):
  whole = take(make(), 30)  # several epochs
  blocks = [take(make((i, count)), 30) for i in range(count)]
  assert blocks[0][0]["tokens_BT"].shape == (B // count, T)
  assert_same(joined(blocks), whole)


def test_mutant_each_process_shuffling_for_itself_is_caught():
  whole = take(alone(), 10)
  mutant = [take(Shuffled(parts(1)[0], B // 2, (0, 1)), 10) for _ in range(2)]
  with pytest.raises(AssertionError):
    assert_same(joined(mutant), whole)


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("at", [0, 1, 7, 23])
def test_resumed_is_uninterrupted(make, at):
  whole = take(make(), 30)
  first = make()
  take(first, at)
  state = first.get_state()
  assert state == {"batches": at}
  for resumed in (make(), make((1, 2))):
    resumed.set_state(state)
    rest = take(resumed, 30 - at)
    want = whole[at:]
    if resumed.next()["tokens_BT"].shape[0] == B // 2:
      want = [{k: v[B // 2 :] for k, v in b.items()} for b in want]
    assert_same(rest, want)
  first.set_state({"batches": 0})  # back again, on a running one
  assert_same(take(first, 3), whole[:3])


def test_what_was_prefetched_does_not_count():
  source = mixture()
  take(source, 3)
  assert source.get_state() == {"batches": 3}


@pytest.mark.parametrize("make", [Offline, Shuffled])
def test_a_far_position_is_reached_at_once(make):
  class Counting(Cut):
    made = 0

    def row(self, epoch, index):
      Counting.made += 1
      return super().row(epoch, index)

  rows = Counting(numbered(random_sizes()), T, (0,))
  source = (
    Offline([rows], [1], B) if make is Offline else Shuffled(rows, B, (0, 1))
  )
  source.set_state({"batches": 10**9})
  source.next()
  assert Counting.made <= 12 * B  # one batch, and those made ahead


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (0.9, 0.1), (2, 5)])
def test_mixtures_hold_to_their_weights(weights):
  found = np.concatenate(
    [
      b["target_BT"][:, -1] >= 100_000
      for b in take(mixture((0, 1), weights), 50)
    ]
  )
  share = weights[1] / sum(weights)
  # At every moment, not only at the end.
  counts = np.cumsum(found)
  want = share * np.arange(1, len(found) + 1)
  assert np.abs(counts - want).max() <= 2


def test_a_mixture_skips_no_row_of_its_parts():
  weights = (1, 3)
  stream = take(mixture((0, 1), weights), 60)
  rows = np.concatenate([b["target_BT"] for b in stream])
  is_second = rows[:, -1] >= 100_000
  for part, mine in zip(
    parts(), [rows[~is_second], rows[is_second]], strict=True
  ):
    want = [
      part.row(*divmod(i, len(part)))["target_BT"] for i in range(len(mine))
    ]
    np.testing.assert_array_equal(mine, want)


def test_a_batch_that_processes_cannot_share():
  with pytest.raises(ValueError, match=r"--batch_size=8: not divisible by 3"):
    alone((0, 3)).next()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_finite_batches_hold_each_token_once(count):
  tokens = numbered(random_sizes())
  rows = InOrder(tokens, T)
  blocks = [list(Finite(rows, B, (i, count))) for i in range(count)]
  batches = joined(blocks)
  assert len(batches) == -(-len(rows) // B)
  assert all(b["tokens_BT"].shape == (B, T) for b in batches)
  flat = [{k: v[i] for k, v in b.items()} for b in batches for i in range(B)]
  np.testing.assert_array_equal(targets(flat), tokens.ids)


def test_finite_at_random_access():
  made = Finite(InOrder(numbered(random_sizes()), T), B)
  assert_same([made[i] for i in range(len(made))], list(made))
  for index in (-1, len(made)):
    with pytest.raises(IndexError):
      made[index]


def test_mutant_dropping_the_last_batch_is_caught():
  tokens = numbered(random_sizes())
  made = Finite(InOrder(tokens, T), B)
  kept = itertools.islice(made, len(made) - 1)
  flat = [{k: v[i] for k, v in b.items()} for b in kept for i in range(B)]
  assert len(targets(flat)) < len(tokens)
