"""Packed pairs are the pairs: each once, whole, and side by side."""

import collections

import numpy as np
import pytest

from llm_jax.data import columns, packing
from llm_jax.data.preferences import Preferences
from tests.data import hosts
from tests.data.preferences_test import (
  BYTES,
  END,
  LONG,
  made,
  RANKED,
  ROWS,
  SPLITS,
  T,
  WANTED,
)

T = 3 * T


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("packed")


def packed(home, *files, **changes):
  changes = {"length": T, "packing": "best_fit"} | changes
  return made(home, *files, **changes)


def units(batch, G=2):
  """[(prompt, completions, number of each, margin)] of a batch, checked."""
  out = []
  S = batch["row_BS"].shape[1]
  for first in range(0, len(batch["mask_BT"]), G):
    numbers = batch["segment_BT"][first : first + G]
    for s in range(S):
      here = [_document(batch, first + g, s + 1) for g in range(G)]
      if any(here):
        prompts = {d[0] for d in here if d}
        assert len(prompts) == 1, "a unit is parted"
        rows = batch["row_BS"][first : first + G, s].tolist()
        said = tuple(d[1] if d else "" for d in here)
        more = {k: batch[k][first, s] for k in ("margin_BS",) if k in batch}
        out.append((*prompts, said, rows, more))
    assert numbers.max() <= S
  return out


def _document(batch, row, segment):
  """(prompt, completion) of a segment, from its own ids alone."""
  here = batch["segment_BT"][row] == segment
  mask = batch["mask_BT"][row] & here
  if not mask.any():
    return None
  at = np.flatnonzero(here)
  np.testing.assert_array_equal(at, np.arange(at[0], at[-1] + 1))
  np.testing.assert_array_equal(batch["position_BT"][row][here], range(len(at)))
  target = batch["target_BT"][row]
  shifted = [BYTES.eos_id, *target[here][:-1]]
  np.testing.assert_array_equal(batch["tokens_BT"][row][here], shifted)
  prompt = batch["prompt_BT"][row] & here
  np.testing.assert_array_equal(prompt | mask, here)
  assert target[mask][-1] == END
  return BYTES.decode(target[prompt]), BYTES.decode(target[mask])


def pairs(batch):
  return [(p, *said) for p, said, *_ in units(batch)]


def test_every_pair_is_once_in_one_split(home):
  data = packed(home)
  found = {s: list(data.held_out(s, 4)) for s in SPLITS}
  all_ = [x for b in sum(found.values(), []) for x in pairs(b)]
  assert sorted(all_) == WANTED
  rows = sum(b["mask_BT"].any(1).sum() for b in found["train"])
  assert rows < len(data.tokens("train").offsets) / 2  # really packed
  mean = sum(len(pairs(b)) for b in found["train"]) / (rows / 2)
  assert data.notes == [f"--data.packing: {mean:.2f} pairs where one stood"]
  for b in found["train"]:
    assert not b["mask_BT"][b["segment_BT"] == 0].any()


def test_columns_are_of_their_pairs(home):
  data, alone = packed(home), made(home)
  (batch,) = data.held_out("train", 64)
  margin = {r["prompt"]: r["margin"] for r in ROWS}
  by_row = {}
  for b in alone.held_out("train", 8):
    for i in np.flatnonzero(b["mask_BT"].any(1)):
      by_row[b["row_B"][i]] = BYTES.decode(b["target_BT"][i][b["mask_BT"][i]])
  for prompt, said, rows, more in units(batch):
    assert more["margin_BS"] == margin[prompt]
    assert tuple(by_row[r] for r in rows) == said
  # Mutant: a column laid out as its pairs are listed, not packed.
  wrong = dict(batch, row_BS=np.sort(batch["row_BS"], axis=None))
  wrong["row_BS"] = wrong["row_BS"].reshape(batch["row_BS"].shape)
  assert any(
    tuple(by_row[r] for r in rows) != said for _, said, rows, _ in units(wrong)
  )


def test_the_same_batches_for_any_number_of_hosts_and_after_a_stop(home):
  hosts.batches(lambda: packed(home), "row_BS", hosts=2)
  data = packed(home)
  # An epoch has every pair once, as those held out have.
  held = [x for b in data.held_out("train", 64) for x in pairs(b)]
  source = packed(home).train(2, 0)
  seen = []
  while len(seen) < len(held):
    seen += pairs(source.next())
  assert sorted(seen) == sorted(held)


def test_rankings_and_classes_are_packed_alike(home):
  changes = {"rows": "rankings", "validation": 0, "test": 0}
  (batch,) = packed(home, ("r", RANKED), **changes).held_out("train", 64)
  found = {p: said for p, said, *_ in units(batch, 4)}
  assert len(found) == len(RANKED)
  for i in range(len(RANKED)):
    n = 2 + i % 3
    want = [f"a{i}", f"b{i}", f"z{i}", f"y{i}"][:n]
    assert found[f"q{i}"] == (*want, *[""] * (4 - n))
  rows = [
    {"prompt": f"p{i}", "completion": f"c{i}", "label": i % 3 == 0}
    for i in range(30)
  ]
  changes["rows"] = "classes"
  (batch,) = packed(home, ("c", rows), **changes).held_out("train", 64)
  seen = []
  for row, (segments, label) in enumerate(
    zip(batch["segment_BT"], batch["class_BS"], strict=True)
  ):
    for s in range(segments.max() if batch["mask_BT"][row].any() else 0):
      seen.append((*_document(batch, row, s + 1), bool(label[s])))
  want = [(r["prompt"], r["completion"], r["label"]) for r in rows]
  assert sorted(seen) == sorted(want)


def test_mixtures(home):
  """Shares are of pairs, however many a row holds."""
  short = [
    {"prompt": f"o{i}", "chosen": "l", "rejected": "r"} for i in range(20)
  ]
  data = packed(
    home,
    ("a", ROWS),
    ("o", short),
    weights=(1.0, 1.0),
    validation=0.1,
    test=0,
  )
  source = data.train(16, 0)
  found = sum((pairs(source.next()) for _ in range(30)), [])
  count = collections.Counter(c == "l" for _, c, _ in found)[True]
  assert abs(count / len(found) - 0.5) < 0.05
  splits = ("train", "validation")
  all_ = [x for s in splits for b in data.held_out(s, 4) for x in pairs(b)]
  want = [(r["prompt"], r["chosen"], r["rejected"]) for r in ROWS + short]
  assert sorted(all_) == sorted(want)


def test_what_is_long_is_cut_or_dropped_as_alone(home):
  changes = {"validation": 0, "test": 0, "length": 48}
  for how in ("cut", "drop"):
    alone = made(home, ("long", LONG), too_long=how, **changes)
    ours = packed(home, ("long", LONG), too_long=how, **changes)
    assert ours.notes[0] == alone.notes[0]
    (batch,) = ours.held_out("train", 256)
    length = np.zeros(batch["row_BS"].max() + 1, int)
    for b in alone.held_out("train", 8):
      there = b["mask_BT"].any(1)
      length[b["row_B"][there]] = b["mask_BT"].sum(1)[there]
    for s in range(batch["row_BS"].shape[1]):
      here = (batch["segment_BT"] == s + 1) & batch["mask_BT"]
      there = here.any(1)
      np.testing.assert_array_equal(
        here.sum(1)[there], length[batch["row_BS"][there, s]]
      )


def test_what_was_worked_out_before_is_carried(home, tmp_path):
  data = packed(home)
  worked = np.arange(float(data.num_rows("train")))
  path = tmp_path / "columns.npz"
  columns.save(path, {"train": {"ref_logp_B": worked}}, data.about)
  found = data.carrying(columns.load(path, packed(home).about))
  batch = found.train(8, 1).next()
  np.testing.assert_array_equal(batch["ref_logp_BS"], batch["row_BS"])
  with pytest.raises(ValueError, match="--data.packing=best_fit, now it is No"):
    columns.load(path, made(home, length=T).about)


def test_labels_are_refused():
  with pytest.raises(ValueError, match="--data.packing=best_fit: --data.rows"):
    Preferences(rows="labels", packing="best_fit")


@pytest.mark.parametrize("length", [40, 200])
def test_no_row_overflows_and_few_are_empty(length):
  r = np.random.default_rng(0)
  size_NG = r.integers(1, 40, (300, 2))
  pieces, counts = packing.best_fit_abreast(np.arange(300), size_NG, length)
  assert sorted(pieces) == list(range(300))
  row_N = np.repeat(np.arange(len(counts)), counts)
  held_RG = np.stack([np.bincount(row_N, s[pieces]) for s in size_NG.T], 1)
  assert held_RG.max() <= length
  _, of_larger = packing._best_fit(np.arange(300), size_NG.max(1), length)
  assert size_NG.sum(0).max() / length <= len(counts) < len(of_larger)
  # Mutant: room for the first of them alone.
  first = size_NG[:, :1]
  pieces, counts = packing.best_fit_abreast(np.arange(300), first, length)
  row_N = np.repeat(np.arange(len(counts)), counts)
  assert np.bincount(row_N, size_NG[pieces, 1]).max() > length
