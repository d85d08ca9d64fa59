"""Rows of corrupted text: whole again, one stream, anew at each epoch."""

import dataclasses
import itertools

import numpy as np
import pytest

from llm_jax.data import corruption, denoised, packing
from llm_jax.data.batches import Finite, Offline
from llm_jax.data.denoisers import Masked, Mixture, PrefixLM, Spans
from llm_jax.data.sides import SourceSide
from llm_jax.data.tokens import Tokens
from llm_jax.data.words import Vocabulary
from llm_jax.generation import decode
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.extra import Extended
from tests.data.batches_test import assert_same, joined, take

TOKENIZER = Extended(ByteTokenizer(), 30)
VOCABULARY = Vocabulary(TOKENIZER)
EOS, SENTINELS = TOKENIZER.eos_id, TOKENIZER.marks.sentinels
T, S, B = 32, 24, 8
SMALL = Mixture(
  (Spans(), Spans(0.25, 0.0), Spans(0.5, 3.0), PrefixLM()),
  (1.0, 2.0, 1.0, 1.0),
  ("R", "S", "X", "S"),
)
WAYS = (Masked(), Masked(whole_words=True), Spans(), PrefixLM(), SMALL)
APART, ONE = SourceSide(S), SourceSide()


def documents(count=80, most=70, seed=0):
  """Texts that end with eos, one of them with nothing else."""
  r = np.random.default_rng(seed)
  sizes = np.concatenate([[1], r.integers(2, most, count)])
  offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
  ids = r.integers(12, 268, offsets[-1]).astype(np.uint16)
  ids[offsets[1:] - 1] = EOS
  return Tokens(ids, offsets, EOS)


TOKENS = documents()


def parts(way, packed=False, source=ONE, seed=(3, 1), tokens=TOKENS):
  shape = denoised.Shape(T, packed, source)
  return denoised.parts(way, tokens, shape, VOCABULARY, seed)


def stream(way, block=(0, 1), packed=False, source=ONE):
  rows, shares = zip(*parts(way, packed, source), strict=True)
  return Offline(rows, shares, B, block)


def epoch(rows, number=0):
  return [rows.row(number, i) for i in range(len(rows))]


def examples(row):
  """(source, target) of each example of a row, as it was before it was laid."""
  if "source_BS" in row:
    count = row["source_segment_BS"].max(initial=0)
    assert count == row["segment_BT"].max()
    for i in range(1, count + 1):
      mine = row["segment_BT"] == i
      assert (row["mask_BT"] >= mine).all()
      read = row["source_BS"][row["source_segment_BS"] == i]
      yield read, row["target_BT"][mine]
    return
  real = row["prompt_BT"] | row["mask_BT"]
  segment = row.get("segment_BT", real.astype(int))
  assert not (row["prompt_BT"] & row["mask_BT"]).any()
  assert np.array_equal(real, segment > 0)
  for i in range(1, segment.max(initial=0) + 1):
    mine = segment == i
    # The whole source stands before the whole target.
    assert not np.diff(row["prompt_BT"][mine].astype(int)).max(initial=0) > 0
    yield (
      row["target_BT"][mine & real & row["prompt_BT"]],
      row["target_BT"][mine & row["mask_BT"]],
    )


def restored(way, row):
  """Ids of each example of a row."""
  return [
    way.restore(corruption.Pair(*pair), SENTINELS) for pair in examples(row)
  ]


def seen(pieces):
  """How often each id is in the pieces, and which."""
  return np.bincount(np.concatenate(pieces), minlength=300)


@pytest.mark.parametrize("source", [ONE, APART], ids=["one", "two"])
@pytest.mark.parametrize("way", WAYS[2:4], ids=str)
def test_a_held_out_split_comes_back_whole(way, source):
  ((rows, _),) = parts(way, source=source, seed=None)
  found = np.concatenate([p for r in epoch(rows) for p in restored(way, r)])
  assert np.array_equal(found, TOKENS.ids)
  ((rows, _),) = parts(way, packed=True, source=source, seed=None)
  pieces = [p for r in epoch(rows) for p in restored(way, r)]
  count = max(map(len, (p for r in epoch(rows) for p in restored(way, r))))
  cut = packing.cut_up(TOKENS, count)
  wanted = sorted(
    tuple(TOKENS.ids[a : a + n].tolist())
    for a, n in zip(cut.start, cut.size, strict=True)
    if n > 1
  )
  assert sorted(tuple(p.tolist()) for p in pieces) == wanted


@pytest.mark.parametrize("packed", [False, True], ids=["cut", "packed"])
@pytest.mark.parametrize("way", WAYS[:2], ids=str)
def test_hidden_tokens_come_back(way, packed):
  ((rows, _),) = parts(way, packed, seed=None)
  plain = packing.plain(TOKENS, T, packed, None)
  assert len(rows) == len(plain)
  for row, whole in zip(epoch(rows), epoch(plain), strict=True):
    chosen = row["mask_BT"]
    told = np.where(chosen, row["target_BT"], -1)
    found = np.where(chosen, told, row["tokens_BT"])
    real = row["segment_BT"] > 0
    assert np.array_equal(found[real], whole["target_BT"][real])
    assert np.array_equal(real, whole["mask_BT"])
    assert not chosen[~real].any()
    assert np.array_equal(row["asked_BT"], chosen)
    assert not np.isin(row["target_BT"][chosen], [EOS, 0]).any()
    if packed:
      np.testing.assert_array_equal(row["segment_BT"], whole["segment_BT"])
      np.testing.assert_array_equal(row["position_BT"], whole["position_BT"])


class _Begun(Extended):
  """A tokenizer with an id of its own before a text, as BERT's [CLS]."""

  def __init__(self):
    super().__init__(ByteTokenizer(), 30)
    self.start_id = self.bos_id


@pytest.mark.parametrize("seed", [None, (3, 1)], ids=["held out", "train"])
@pytest.mark.parametrize("way", WAYS[:2], ids=str)
def test_hidden_rows_begin_as_texts_do(way, seed):
  begun, T1 = Vocabulary(_Begun()), T - 1
  bos = begun.tokenizer.bos_id
  cut = denoised.Shape(T, False, ONE)
  ((rows, _),) = denoised.parts(way, TOKENS, cut, begun, seed)
  plain = packing.plain(TOKENS, T1, False, seed)
  assert len(rows) == len(plain)
  for i in range(len(rows)):
    row, whole = rows.row(0, i), plain.row(0, i)
    assert all(len(x) == T for x in row.values()) and rows.width(0, i) == T
    assert row["tokens_BT"][0] == row["target_BT"][0] == bos
    assert np.array_equal(row["target_BT"][1:], whole["target_BT"])
    assert (
      not row["mask_BT"][0] and not row["mask_BT"][1:][~whole["mask_BT"]].any()
    )
  packed = denoised.Shape(T, True, ONE)
  ((rows, _),) = denoised.parts(way, TOKENS, packed, begun, seed)
  found = []
  for row in epoch(rows):
    segment = row["segment_BT"]
    for n in range(1, segment.max() + 1):
      ids = row["target_BT"][segment == n]
      found.append(ids)
  begins = sum(ids[0] == bos for ids in found)
  assert begins == len(TOKENS.offsets) - 1  # long ones are in several pieces
  told = np.concatenate(found)
  assert (told == bos).sum() == begins  # and nowhere else
  # The mutant: where nothing begins a text, nothing is put there.
  ((rows, _),) = parts(way, packed=True, seed=seed)
  assert not any((row["target_BT"] == bos).any() for row in epoch(rows))
  # All of every document is there, once.
  want = np.bincount(TOKENS.ids, minlength=300)
  want[bos] = begins
  assert np.array_equal(np.bincount(told, minlength=300), want)


@pytest.mark.parametrize("source", [ONE, APART], ids=["one", "two"])
@pytest.mark.parametrize("packed", [False, True], ids=["cut", "packed"])
def test_a_decoder_reads_what_it_has_written(packed, source):
  ((rows, _),) = parts(Spans(), packed, source)
  start = TOKENIZER.pad_id if source.length else EOS
  for row in epoch(rows):
    segment = row.get("segment_BT", np.ones(T, int))
    first = np.diff(segment, prepend=0) > 0
    assert (row["tokens_BT"][first] == start).all()
    inner = ~first[1:] & (segment[1:] > 0)
    assert (row["tokens_BT"][1:] == row["target_BT"][:-1])[inner].all()
    if "position_BT" in row:
      at = row["position_BT"]
      assert (at[first] == 0).all() and (np.diff(at)[inner] == 1).all()


@pytest.mark.parametrize("way", WAYS, ids=lambda w: str(w)[:25])
@pytest.mark.parametrize("packed", [False, True], ids=["cut", "packed"])
def test_the_stream_does_not_depend_on_processes(way, packed):
  whole = take(stream(way, packed=packed), 12)
  for count in (2, 4):
    blocks = [take(stream(way, (i, count), packed), 12) for i in range(count)]
    assert_same(joined(blocks), whole)


@pytest.mark.parametrize("way", WAYS, ids=lambda w: str(w)[:25])
def test_resumed_is_uninterrupted(way):
  whole = take(stream(way), 14)
  first = stream(way)
  take(first, 5)
  state = first.get_state()
  assert state == {"batches": 5}
  resumed = stream(way)
  resumed.set_state(state)
  assert_same(take(resumed, 9), whole[5:])


class Drawing(denoised.TakenOut):
  """A mutant: what is drawn depends on what was drawn before."""

  state = itertools.count()

  def row(self, epoch, index):
    return super().row(epoch + next(self.state), index)


def test_mutant_a_generator_that_goes_on_is_caught():
  shape = denoised.Shape(T, False, ONE)

  def made():
    rows = Drawing(Spans(), None, TOKENS, shape, VOCABULARY, (3, 1))
    return Offline([rows], [1.0], B)

  whole = take(made(), 6)
  resumed = made()
  resumed.set_state({"batches": 3})
  with pytest.raises(AssertionError):
    assert_same(take(resumed, 3), whole[3:])


def test_a_far_position_is_reached_at_once():
  class Counting(denoised.TakenOut):
    made = 0

    def row(self, epoch, index):
      Counting.made += 1
      return super().row(epoch, index)

  shape = denoised.Shape(T, True, APART)
  rows = Counting(Spans(), None, TOKENS, shape, VOCABULARY, (3, 1))
  source = Offline([rows], [1.0], B)
  source.set_state({"batches": 10**9})
  source.next()
  assert Counting.made <= 12 * B  # one batch, and those made ahead


@pytest.mark.parametrize("way", WAYS[:4], ids=str)
def test_each_epoch_takes_something_else_away(way):
  """Whole documents stay together, so a row comes again."""
  ((rows, _),) = parts(way, packed=True)
  hidden = []
  for number in (0, 1):
    told = set()
    for row in epoch(rows, number):
      for i in np.flatnonzero(row["mask_BT"]).tolist():
        told.add(tuple(row["target_BT"][max(i - 4, 0) : i + 1].tolist()))
    hidden.append(told)
  both = len(hidden[0] & hidden[1])
  assert both < 0.75 * min(map(len, hidden))
  assert_same([rows.row(1, 0)], [rows.row(1, 0)])


def test_static_masks_are_told_from_dynamic_ones():
  """A mutant: the same is hidden at each epoch."""

  class Static(denoised.Hidden):
    def row(self, epoch, index):
      found = np.flatnonzero(
        [
          np.array_equal(self._rows.row(epoch, index)["target_BT"], r)
          for r in (row["target_BT"] for row in self.first)
        ]
      )
      return super().row(0, int(found[0]))

  shape = denoised.Shape(T, True, ONE)
  rows = Static(Masked(), TOKENS, shape, VOCABULARY, (3, 1))
  rows.first = epoch(packing.BestFit(TOKENS, T, (3, 1)))
  once, again = (
    {(*r["target_BT"].tolist(), *r["mask_BT"].tolist()) for r in epoch(rows, e)}
    for e in (0, 1)
  )
  assert once == again
  ((rows, _),) = parts(Masked(), packed=True)
  once, again = (
    {(*r["target_BT"].tolist(), *r["mask_BT"].tolist()) for r in epoch(rows, e)}
    for e in (0, 1)
  )
  assert len(once & again) < len(once) / 4


def test_shares_of_a_mixture():
  made = parts(SMALL)
  shares = np.array([share for _, share in made])
  counts = np.zeros(len(made))
  for batch in take(stream(SMALL), 40):
    modes = TOKENIZER.marks.modes
    for row in range(B):
      mode = batch["target_BT"][row, 0]
      counts[list(modes.values()).index(mode)] += 1
  counts /= counts.sum()
  np.testing.assert_allclose(counts[:3], [0.2, 0.6, 0.2], atol=0.01)
  assert shares.tolist() == [1, 2, 1, 1]


def test_held_out_rows_of_a_mixture_have_its_shares():
  made = parts(SMALL, seed=None)
  rows = denoised.Shared(made)
  first = np.array([rows.row(0, i)["target_BT"][0] for i in range(len(rows))])
  modes = TOKENIZER.marks.modes
  for upto in (len(rows) // 3, len(rows)):  # any beginning is fair
    shares = [(first[:upto] == modes[m]).mean() for m in "RSX"]
    np.testing.assert_allclose(shares, [0.2, 0.6, 0.2], atol=0.03)
  batches = list(Finite(rows, B))
  assert len(batches) == -(-len(rows) // B)
  # The part with the largest share has its whole split.
  longest = max(len(r) for r, share in made if share == 2)
  assert (first == modes["S"]).sum() >= longest


@pytest.mark.parametrize("source", [ONE, APART], ids=["one", "two"])
def test_rows_are_as_full_as_they_can_be(source):
  ((rows, _),) = parts(Spans(), source=source)
  for row in epoch(rows):
    used = row["source_segment_BS" if source.length else "mask_BT"] > 0
    if source.length:
      assert used.sum() == S
    else:
      assert (used | row["prompt_BT"]).sum() >= T - 2


def test_mutant_rows_packed_with_too_little_room_are_caught():
  class Tight(denoised.TakenOut):
    def _room(self):
      return super()._room() - 3

  shape = denoised.Shape(T, True, ONE)
  rows = Tight(Spans(), None, TOKENS, shape, VOCABULARY, (3, 1))
  with pytest.raises(ValueError, match="broadcast"):
    epoch(rows)


def test_what_a_tokenizer_lacks_is_told():
  few = Vocabulary(Extended(ByteTokenizer(), 2))
  shape = denoised.Shape(200, False, ONE)
  with pytest.raises(ValueError, match=r"--tokenizer.extra_ids: the tok.* 2"):
    denoised.parts(Spans(), TOKENS, shape, few, (0,))
  bare = Extended(ByteTokenizer(), 30)
  bare.marks = bare.marks._replace(mask=None, modes={})
  with pytest.raises(ValueError, match="has no mask"):
    denoised.parts(Masked(), TOKENS, shape, Vocabulary(bare), (0,))
  with pytest.raises(ValueError, match="modes=R: the tokenizer has no id"):
    denoised.parts(SMALL, TOKENS, shape, Vocabulary(bare), (0,))
  short = denoised.Shape(4, False, ONE)
  with pytest.raises(ValueError, match="--data.length=4: too short"):
    denoised.parts(Spans(), TOKENS, short, VOCABULARY, (0,))


def test_masked_rows_hide_as_many_as_they_say():
  ((rows, _),) = parts(Masked(rate=0.3))
  marks = [r["mask_BT"].sum() for e in range(4) for r in epoch(rows, e)]
  candidates = [
    (r["target_BT"] != EOS).sum() for e in range(4) for r in epoch(rows, e)
  ]
  for mine, all_ in zip(marks, candidates, strict=True):
    assert abs(mine - 0.3 * all_) < 1
  np.testing.assert_allclose(sum(marks) / sum(candidates), 0.3, atol=0.004)


def test_sources_begin_as_told():
  its = dataclasses.replace(APART, start="bos")
  ((rows, _),) = parts(Spans(), source=its)
  assert rows.row(0, 0)["tokens_BT"][0] == TOKENIZER.bos_id


def check_sources(packed, way):
  """As BART's in its pretraining: <s> text </s>, arXiv:1910.13461."""
  begun = Vocabulary(_Begun())
  bos = begun.tokenizer.bos_id

  def sources(source, vocabulary):
    shape = denoised.Shape(T, packed, source)
    made = denoised.parts(way, TOKENS, shape, vocabulary, (3, 1))
    rows = [row for its, _ in made for row in epoch(its)]
    return [read.tolist() for row in rows for read, _ in examples(row)]

  for read in (found := sources(APART, begun)):
    assert read[0] == bos and read.count(bos) == 1
    if read[-1] == EOS and read[-2] != EOS:  # a prefix alone may have no end
      asked = decode.framed(read[1:-1], begun.tokenizer, apart=True)
      assert read == asked
  assert found
  # In one row it begins as the row does; where nothing begins a text, nothing.
  for others in (sources(ONE, begun), sources(APART, VOCABULARY)):
    assert others and not any(bos in read for read in others)


@pytest.mark.parametrize("way", WAYS[2:], ids=lambda w: str(w)[:25])
@pytest.mark.parametrize("packed", [False, True], ids=["cut", "packed"])
def test_a_source_that_is_apart_is_as_one_that_is_asked(packed, way):
  check_sources(packed, way)


def test_mutant_sources_without_what_begins_a_text_are_caught(monkeypatch):
  monkeypatch.setattr(denoised.sides, "begins", lambda tokenizer: ())
  with pytest.raises(AssertionError):
    check_sources(True, Spans())
