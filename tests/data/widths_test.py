"""Rows of their own are cut to the longest of their batch, and lose nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax.data import batches
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests import small
from tests.data import chats, hosts

T, WIDTHS = 64, 4
LONG = ["so " * (i % 14 if i % 11 == 0 else i % 3) for i in range(80)]
ANSWERS = [
  {"prompt": f"What is {i}?", "completion": f"It is {so}{i}."}
  for i, so in enumerate(LONG)
]
PAIRS = [
  {"prompt": f"q{i}?", "chosen": f"yes {so}{i}", "rejected": f"no {i}"}
  for i, so in enumerate(LONG)
]
LABELS = [
  {"prompt": f"q{i}", "completion": f"{so}{i}", "label": i % 3 == 0}
  for i, so in enumerate(LONG)
]
RANKED = [
  {
    "prompt": f"q{i}",
    "completions": [f"b{so}{i}", f"a{i}", f"z{i}"][: 2 + i % 2],
    "ranking": [[1, 0], [1, 0, 2]][i % 2],
  }
  for i, so in enumerate(LONG)
]
KINDS = {
  "answers": ANSWERS,
  "pairs": PAIRS,
  "labels": LABELS,
  "rankings": RANKED,
}


def settings(folder, kind, **changes):
  path = str(chats.jsonl(folder / f"{kind}.jsonl", KINDS[kind]))
  if kind == "answers":
    made = Instructions(sources=(Conversations(paths=(path,)),))
  else:
    made = Preferences(sources=(PreferenceFiles(paths=(path,)),), rows=kind)
  return dataclasses.replace(
    made, length=T, packing="one", cache=str(folder / "cache"), **changes
  )


def data(folder, kind, **changes):
  corpus = settings(folder, kind, **changes).prepare(chats.plain)
  return corpus.tokenise(ByteTokenizer(), chats.plain)


def used(batch):
  """Positions of rows up to the last one that holds anything, [B]."""
  there = batch["mask_BT"] | batch["prompt_BT"]
  return np.where(there.any(1), T - there[:, ::-1].argmax(1), 0)


def width(used_B):
  """The least of the widths that holds the longest, by hand."""
  return next(w for w in (16, 32, 48, 64) if w >= used_B.max())


def assert_cut(cut, whole):
  """All arrays of T positions are the first ones of the whole; others alike."""
  w = width(used(whole))
  assert set(cut) == set(whole)
  for name, x in whole.items():
    want = x[:, :w] if x.ndim == 2 and x.shape[1] == T else x
    np.testing.assert_array_equal(cut[name], want, err_msg=name)
  return w


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_as_wide_as_its_longest_row(kind, tmp_path):
  wide = data(tmp_path, kind, widths=1)
  narrow = data(tmp_path, kind, widths=WIDTHS)
  both = (d.train(8, 3) for d in (narrow, wide))
  sources = zip(*([s.next() for _ in range(20)] for s in both), strict=True)
  seen = {assert_cut(cut, whole) for cut, whole in sources}
  assert len(seen) > 1 and seen <= {16, 32, 48, 64}
  splits = (d.held_out("train", 8) for d in (narrow, wide))
  seen = {assert_cut(*pair) for pair in zip(*splits, strict=True)}
  assert len(seen) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_processes_find_the_same_width(kind, tmp_path):
  """Also where the rows of one alone would need less."""
  make = lambda: data(tmp_path, kind, widths=WIDTHS)
  count = 2 if kind != "answers" else 4
  whole = hosts.batches(make, "target_BT", count)
  blocks = [np.split(used(np_padded(b)), count) for b in whole]
  own = [{width(used_B) for used_B in one} for one in blocks]
  assert any(len(widths) > 1 for widths in own)  # so a mutant would be seen
  splits = [make().held_out("train", 8, (i, count)) for i in range(count)]
  for parts in zip(*splits, strict=True):
    assert len({p["tokens_BT"].shape for p in parts}) == 1


def np_padded(batch):
  """The batch with all T positions again."""
  return {
    name: np.pad(batch[name], ((0, 0), (0, T - batch[name].shape[1])))
    for name in ("mask_BT", "prompt_BT")
  }


def test_mutant_a_width_too_small_is_caught(tmp_path, monkeypatch):
  narrow = batches.narrow
  monkeypatch.setattr(
    batches, "narrow", lambda batch, n, *how: narrow(batch, n - 16, *how)
  )
  with pytest.raises(AssertionError):
    test_a_batch_is_as_wide_as_its_longest_row("pairs", tmp_path)


@pytest.mark.parametrize("kind", ["answers", "pairs"])
def test_packed_rows_are_whole(kind, tmp_path):
  made = settings(tmp_path, kind, widths=WIDTHS)
  made = dataclasses.replace(made, packing="best_fit").prepare(chats.plain)
  rows = made.tokenise(ByteTokenizer(), chats.plain)
  for batch in rows.held_out("train", 8):
    assert batch["tokens_BT"].shape == (8, T)


def test_a_model_says_the_same(tmp_path):
  """Log-probs of what counts, to float64's rounding."""
  config = dataclasses.replace(small.CONFIG, vocab_size=268, max_length=T)
  for kind in ("answers", "pairs"):
    both = [
      data(tmp_path, kind, widths=w).train(8, 3).next() for w in (1, WIDTHS)
    ]
    assert both[1]["tokens_BT"].shape[1] < T
    with jax.enable_x64(True):
      model, variables = small.build(config)
      score = jax.jit(small.score_fn(model))
      said = [np.asarray(score(variables, b).logp_BT) for b in both]
    want, got = (x[b["mask_BT"]] for x, b in zip(said, both, strict=True))
    np.testing.assert_allclose(got, want, 1e-12)
