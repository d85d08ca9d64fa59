"""Preferences become rows: what belongs together stays together, and only
completions count."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from llm_jax.data import columns, preference_tokens, preference_units
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.tokenizers import special
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.training import step
from tests.data import chats, hosts

BYTES = ByteTokenizer()
END = special.ROLE_IDS["end"]
T = 48
ROWS = [
  {
    "prompt": f"What is {i}?",
    "chosen": f"yes {'so ' * (i % 5)}{i}",
    "rejected": f"no {i}",
    "margin": i,
  }
  for i in range(40)
]
LABELS = [
  {"prompt": f"q{i}", "completion": f"c{i}", "label": i % 3 == 0}
  for i in range(30)
]
RANKED = [
  {
    "prompt": f"q{i}",
    "completions": [f"b{i}", f"a{i}", f"z{i}", f"y{i}"][: 2 + i % 3],
    "ranking": [[1, 0], [1, 0, 2], [1, 0, [2, 3]]][i % 3],
  }
  for i in range(30)
]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("preferences")


def settings(home, *files, faulty="error", **changes):
  files = files or [("a", ROWS)]
  for name, rows in files:
    chats.jsonl(home / f"{name}.jsonl", rows)
  base = Preferences(
    sources=tuple(
      PreferenceFiles(paths=(str(home / f"{name}.jsonl"),), faulty=faulty)
      for name, _ in files
    ),
    length=T,
    validation=0.2,
    test=0.1,
    cache=str(home / "cache"),
  )
  return dataclasses.replace(base, **changes)


def made(home, *files, **changes):
  corpus = settings(home, *files, **changes).prepare(chats.plain)
  return corpus.tokenise(BYTES, chats.plain)


def prompts(batch):
  """Texts of the rows before what counts; no text of an empty row."""
  return [
    BYTES.decode(t[p])
    for t, p in zip(batch["target_BT"], batch["prompt_BT"], strict=True)
  ]


def completions(batch):
  return [
    BYTES.decode(t[m])
    for t, m in zip(batch["target_BT"], batch["mask_BT"], strict=True)
  ]


def pairs(batch):
  """(prompt, chosen, rejected) of a batch; rows that are none left out."""
  p, c = prompts(batch), completions(batch)
  out = []
  for i in range(0, len(p), 2):
    assert p[i] == p[i + 1], "a pair is parted"
    if c[i] or c[i + 1]:
      out.append((p[i], c[i], c[i + 1]))
  return out


WANTED = sorted((r["prompt"], r["chosen"], r["rejected"]) for r in ROWS)


def test_every_pair_is_once_in_one_split(home):
  data = made(home)
  found = {
    s: [x for b in data.held_out(s, 8) for x in pairs(b)] for s in SPLITS
  }
  assert sorted(sum(found.values(), [])) == WANTED
  assert all(found.values()) and len(found["train"]) > len(found["test"])
  assert data.notes == [] and data.rows_together == 2


def test_only_completions_count_and_their_end_does(home):
  (only,) = made(home).held_out("validation", 64)
  mask, prompt = only["mask_BT"], only["prompt_BT"]
  real = mask.any(1)
  assert real.sum() > 4
  assert not (mask & prompt).any()
  for target, m, p in zip(
    only["target_BT"][real], mask[real], prompt[real], strict=True
  ):
    ids = target[m]
    assert ids[-1] == END and END not in ids[:-1]
    first = int(m.argmax())
    np.testing.assert_array_equal(np.flatnonzero(p), np.arange(first))
    np.testing.assert_array_equal(
      np.flatnonzero(m), np.arange(first, first + len(ids))
    )
    assert target[first - 1] == special.ROLE_IDS["assistant"]
  shifted = only["tokens_BT"][real]
  assert (shifted[:, 0] == BYTES.eos_id).all()
  both = (mask | prompt)[real]
  np.testing.assert_array_equal(
    shifted[:, 1:][both[:, 1:]], only["target_BT"][real][:, :-1][both[:, 1:]]
  )


def test_mutant_a_stop_token_left_out_is_caught(tmp_path, monkeypatch):
  good = preference_tokens._Writer._one

  def without(self, p, place, begin, encoded, split):
    short = [type(e)(e.ids[:-1], e.trained[:-1]) for e in encoded]
    good(self, p, place, begin, short, split)

  monkeypatch.setattr(preference_tokens._Writer, "_one", without)
  with pytest.raises(AssertionError):
    test_only_completions_count_and_their_end_does(tmp_path)


def test_chosen_is_first_and_labels_say_so(home):
  batch = made(home).train(16, 0).next()
  for (_, chosen, rejected), margin in zip(
    pairs(batch), batch["margin_B"][::2], strict=True
  ):
    assert chosen.startswith("yes") and rejected.startswith("no")
    assert chosen.endswith(f" {margin:g}") or chosen == f"yes {margin:g}"
  np.testing.assert_array_equal(batch["margin_B"][::2], batch["margin_B"][1::2])
  # Mutant: sides swapped in the file are swapped here.
  other = [r | {"chosen": r["rejected"], "rejected": r["chosen"]} for r in ROWS]
  batch = made(home, ("swapped", other)).train(16, 0).next()
  assert all(chosen.startswith("no") for _, chosen, _ in pairs(batch))


@pytest.mark.parametrize("n", [2, 4])
def test_microbatches_hold_whole_pairs(home, n):
  batch = made(home).train(16, 0).next()
  parts = step.cut(batch, n, 2)
  found = [
    pair
    for i in range(n)
    for pair in pairs(jax.tree.map(lambda x, i=i: np.asarray(x[i]), parts))
  ]
  assert sorted(found) == sorted(pairs(batch))
  # Mutant: rows cut one by one.
  parts = step.cut(batch, n)
  with pytest.raises(AssertionError, match="a pair is parted"):
    pairs(jax.tree.map(lambda x: np.asarray(x[0]), parts))


def test_the_same_batches_for_any_number_of_hosts_and_after_a_stop(home):
  whole = hosts.batches(lambda: made(home), "row_B")
  data = made(home)
  epoch = len(pairs(next(iter(data.held_out("train", 256)))))
  seen = [x for b in whole for x in pairs(b)][:epoch]
  assert len(set(seen)) == epoch


def test_a_batch_is_of_whole_pairs(home):
  data = made(home)
  for make in (
    lambda: data.train(7, 0),
    lambda: data.held_out("train", 7),
    lambda: data.train(4, 0, (0, 4)),
  ):
    with pytest.raises(ValueError, match=r"--batch_size=\d: not divisible by"):
      make()


def test_labels_and_mismatched_completions(home):
  data = made(home, ("labels", LABELS), rows="labels", validation=0, test=0)
  (batch,) = data.held_out("train", 2 * len(LABELS))
  p, c = prompts(batch), completions(batch)
  own = sorted(zip(p[::2], c[::2], batch["label_B"][::2].tolist(), strict=True))
  want = [(r["prompt"], r["completion"], float(r["label"])) for r in LABELS]
  assert own == sorted(want)
  np.testing.assert_array_equal(
    batch["mismatched_B"], np.tile([False, True], len(LABELS))
  )
  assert p[1::2] == p[::2]
  assert sorted(c[1::2]) == sorted(c[::2])  # each is another's once
  for mine, other in zip(c[::2], c[1::2], strict=True):
    assert mine != other
  assert sorted(batch["row_B"]) == list(range(2 * len(LABELS)))


def test_labels_of_pairs_are_never_matched_with_their_own_prompt(home):
  data = made(home, rows="labels", validation=0, test=0)
  (batch,) = data.held_out("train", 4 * len(ROWS))
  p, c = prompts(batch), completions(batch)
  liked = batch["label_B"][::2] > 0
  assert liked.sum() == len(ROWS) == (~liked).sum()
  for i, like in enumerate(liked):
    assert c[2 * i].startswith("yes" if like else "no")
    number = p[2 * i].removeprefix("What is ").removesuffix("?")
    assert c[2 * i].split()[-1] == number
    assert c[2 * i + 1].split()[-1] != number
  one = [ROWS[0]]
  data = made(home, ("one", one), rows="labels", validation=0, test=0)
  with pytest.raises(ValueError, match="two prompts or more.*sources.0"):
    data.train(4, 0)


def test_mutant_rotation_that_does_not_look_is_caught(home, monkeypatch):
  def rotated(part, kept):
    del kept
    own = np.arange(len(part.begin))
    other = np.roll(own, 1)
    both = np.stack([own, other], 1)
    label = np.repeat(part.likes[:, None], 2, 1)
    more = {"row_B": both, "label_B": label, "mismatched_B": both < 0}
    return preference_units.Units(np.stack([own, own], 1), both, more)

  monkeypatch.setattr(preference_units, "labels", rotated)
  with pytest.raises(AssertionError):
    test_labels_of_pairs_are_never_matched_with_their_own_prompt(home)


def test_rankings_are_rows_beside_each_other(home):
  data = made(home, ("r", RANKED), rows="rankings", validation=0, test=0)
  assert data.rows_together == 4
  (batch,) = data.held_out("train", 4 * len(RANKED))
  p, c = prompts(batch), completions(batch)
  rank = batch["rank_B"].reshape(-1, 4).tolist()
  wanted = [[0, 1, -1, -1], [0, 1, 2, -1], [0, 1, 2, 2]]
  for i in range(len(RANKED)):
    here = slice(4 * i, 4 * i + 4)
    n = 2 + i % 3
    assert rank[i] == wanted[i % 3]
    assert p[here] == [f"q{i}"] * n + [""] * (4 - n)
    want = [f"a{i}", f"b{i}", f"z{i}", f"y{i}"][:n]
    assert c[here] == want + [""] * (4 - n)
  twos = made(home, ("r", RANKED), validation=0, test=0)
  (batch,) = twos.held_out("train", 512)
  assert len(pairs(batch)) == 10 * (1 + 3 + 5)
  assert twos.notes == ["--data.sources.0: 10 pairs are ties and left out"]
  few = made(home, ("r", RANKED), rows="rankings", completions=3)
  with pytest.raises(ValueError, match=r"completions=3: a prompt has 4 .*es.0"):
    few.train(3, 0)


def test_two_completions_ranked_are_a_pair(home):
  a, b = (made(home, rows=r, completions=2) for r in ("pairs", "rankings"))
  for x, y in zip(a.held_out("train", 8), b.held_out("train", 8), strict=True):
    for name in set(x) & set(y):
      np.testing.assert_array_equal(x[name], y[name])


LONG = [
  *ROWS,
  {"prompt": "p", "chosen": "c" * 100, "rejected": "r"},
  {"prompt": "q" * 60, "chosen": "lost", "rejected": "as well"},
  {"prompt": "r", "chosen": "s" * 80, "rejected": "s" * 90},
]


def test_too_long_is_an_error_unless_told(home):
  with pytest.raises(ValueError) as e:
    made(home, ("long", LONG), validation=0, test=0)
  assert str(e.value) == (
    "--data.length=48: 5 of 86 completions of the train split are longer with"
    " their prompts, the longest 105 tokens; raise it, or set"
    " --data.too_long=cut or drop"
  )


def test_too_long_is_dropped_or_cut(home):
  one = lambda how, **changes: made(
    home, ("long", LONG), validation=0, test=0, too_long=how, **changes
  )
  data = one("drop")
  (batch,) = data.held_out("train", 256)
  assert sorted(pairs(batch)) == WANTED
  assert "; 3 of 43 pairs hold one and are dropped" in data.notes[0]
  data = one("cut")
  (batch,) = data.held_out("train", 256)
  cut = ("p", "c" * (T - len("Up EA") + 1), "r")
  # Cut, both of the last would be the same.
  found = sorted(pairs(batch))
  assert [x for x in found if x not in WANTED] == [cut]
  assert len(found) == len(WANTED) + 1
  assert len(data.notes) == 1
  assert "they are cut, and 1 of 43 pairs hold one cut" in data.notes[0]
  ranked = one("drop", rows="rankings", completions=2)
  assert "; 3 of 43 rankings hold one" in ranked.notes[0]


def test_faulty_rows_are_counted(home):
  rows = [*ROWS, {"prompt": "a", "chosen": "b", "rejected": "b"}]
  data = made(home, ("faulty", rows), faulty="drop")
  (note,) = data.notes
  assert note.startswith("--data.sources.0: 1 left out, the first being ")
  assert note.endswith("faulty.jsonl:41: chosen and rejected are the same")
  found = [x for s in SPLITS for b in data.held_out(s, 8) for x in pairs(b)]
  assert sorted(found) == WANTED
  with pytest.raises(ValueError, match=r"strict.jsonl:41: .*es.0.faulty=drop"):
    made(home, ("strict", rows))


def test_labellers_are_spoken_of(home):
  rows = [
    {
      "prompt": f"q{i}",
      "completions": ["a", "b"],
      "ranking": {"ann": [0, 1], "bob": [1, 0] if i % 4 else [0, 1]}
      | {"cat": [0, 1] if i % 5 else [1, 0], "dan": [0, 1]},
    }
    for i in range(40)
  ]
  ties, note = made(home, ("judged", rows)).notes
  assert ties == "--data.sources.0: 6 pairs are ties and left out"
  assert note.startswith("--data.sources.0: 4 labellers judged 40 pairs")
  assert "Fleiss' kappa" in note and "Krippendorff's alpha" in note
  assert "less often than 0.6: bob (0.2" in note
  quiet = made(home, ("judged", rows), poor=0.0).notes
  assert "bob" not in quiet[1]


def test_mixtures(home):
  other = [
    {"prompt": f"o{i}", "chosen": "left", "rejected": "right"}
    for i in range(20)
  ]
  files = [("a", ROWS), ("o", other)]
  share = lambda **k: made(home, *files, validation=0, test=0, **k).shares()
  np.testing.assert_allclose(share(), [2 / 3, 1 / 3])
  np.testing.assert_allclose(share(weights=(1.0, 3.0)), [0.25, 0.75])
  root = np.sqrt(2)
  np.testing.assert_allclose(
    share(temperature=2.0), [root / (1 + root), 1 / (1 + root)]
  )
  data = made(home, *files, weights=(1.0, 1.0))
  source = data.train(16, 0)
  found = sum((pairs(source.next()) for _ in range(20)), [])
  count = collections.Counter(c == "left" for _, c, _ in found)[True]
  assert abs(count / len(found) - 0.5) < 0.03
  everything = [
    x for s in SPLITS for b in data.held_out(s, 8) for x in pairs(b)
  ]
  want = [(r["prompt"], r["chosen"], r["rejected"]) for r in ROWS + other]
  assert sorted(everything) == sorted(want)


def test_columns_worked_out_before_are_carried(home, tmp_path):
  files = [("a", ROWS), ("b", RANKED)]
  data = made(home, *files)
  worked = np.full(data.num_rows("train"), np.nan)
  for batch in data.held_out("train", 8):  # as a pass over the reference
    counts = batch["mask_BT"].any(1)
    value = (batch["target_BT"] * batch["mask_BT"]).sum(1)
    worked[batch["row_B"][counts]] = value[counts]
  path = tmp_path / "columns.npz"
  columns.save(path, {"train": {"ref_logp_B": worked}}, data.about)
  again = made(home, *files)
  carrying = again.carrying(columns.load(path, again.about))
  for source in (carrying.train(8, 1), iter(carrying.held_out("train", 8))):
    for _ in range(5):
      b = source.next() if hasattr(source, "next") else next(source)
      want = (b["target_BT"] * b["mask_BT"]).sum(1)
      real = b["mask_BT"].any(1)
      np.testing.assert_array_equal(b["ref_logp_B"][real], want[real])
  plain_batch = data.train(8, 1).next()
  for name, value in carrying.train(8, 1).next().items():
    if name != "ref_logp_B":
      np.testing.assert_array_equal(value, plain_batch[name])
  assert "ref_logp_B" not in next(iter(carrying.held_out("test", 8)))
  with pytest.raises(ValueError, match="has .* numbers, there are"):
    data.carrying({"train": {"ref_logp_B": worked[1:]}})
  worked[batch["row_B"][0]] = np.nan
  with pytest.raises(ValueError, match="ref_logp_B of the train split lacks"):
    data.carrying({"train": {"ref_logp_B": worked}}).train(8, 0)


@pytest.mark.parametrize(
  "change,name",
  [
    ({"length": 64}, "--data.length=48, now it is 64"),
    ({"template": "plain"}, "--data.template="),
    ({"validation": 0.3}, "--data.validation=0.2, now it is 0.3"),
    ({"rows": "labels"}, "--data.rows=pairs, now it is labels"),
    ({"rest": ROWS[1:]}, "preferences="),
  ],
)
def test_columns_made_of_something_else_are_refused(
  home, tmp_path, change, name
):
  path = tmp_path / "columns.npz"
  old = made(home).about
  columns.save(path, {}, old)
  assert columns.load(path, made(home).about) == {}
  rows = change.pop("rest", ROWS)
  new = made(home, ("a" if rows is ROWS else "rest", rows), **change).about
  with pytest.raises(ValueError, match="columns.npz: was made with ") as e:
    columns.load(path, new)
  assert name in str(e.value)
  with pytest.raises(ValueError, match="was made with tokenizer="):
    columns.load(path, old | {"tokenizer": "another"})
  with pytest.raises(ValueError, match="was made with model=None, now it is m"):
    columns.load(path, old | {"model": "m"})


def test_broken_columns(tmp_path):
  path = tmp_path / "columns.npz"
  with pytest.raises(ValueError, match="columns.npz: cannot be read"):
    columns.load(path, {})
  values = {"train": {"x_B": np.arange(3.0)}}
  columns.save(path, values, {"a": "b"})
  whole = path.read_bytes()
  for broken in (b"", whole[:100], b"text"):
    path.write_bytes(broken)
    with pytest.raises(ValueError, match="columns.npz: holds no columns"):
      columns.load(path, {"a": "b"})
  assert [p.name for p in tmp_path.iterdir()] == ["columns.npz"]


def test_examples_are_prompts_with_the_best_completion(home):
  data = made(home)
  found = data.examples("validation")
  by_prompt = {r["prompt"]: r["chosen"] for r in ROWS}
  tokens = data.tokens("validation")
  documents = [
    tuple(tokens.ids[a:b].tolist())
    for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)
  ]
  assert len(documents) == 2 * len(found)
  for e in found:
    assert by_prompt[e.conversation.messages[0].content] == e.reference
    assert (*e.prompt_ids, *BYTES.encode(e.reference), END) in documents
  assert data.examples("validation", 3) == found[:3]
  (shown,) = data.examples("validation", 1, 2)
  assert shown.prompt_ids[-len(found[0].prompt_ids) :] == found[0].prompt_ids
  assert shown.prompt_ids.count(special.ROLE_IDS["assistant"]) == 3
  labels = made(home, ("labels", LABELS), rows="labels", validation=0.5, test=0)
  liked = {r["completion"] for r in LABELS if r["label"]}
  seen = [e.reference for s in SPLITS[:2] for e in labels.examples(s)]
  assert set(seen) == liked


def test_texts_of_a_split(home):
  corpus = settings(home).prepare(chats.plain)
  texts = {s: set(corpus.texts(s)) for s in SPLITS}
  want = {f"{r['prompt']}\n{r['chosen']}\n{r['rejected']}" for r in ROWS}
  assert set.union(*texts.values()) == want
  assert sum(map(len, texts.values())) == len(ROWS)


def test_a_cached_start_reads_no_source(home, monkeypatch):
  want = made(home)
  monkeypatch.setattr(PreferenceFiles, "documents", None)
  monkeypatch.setattr(preference_tokens._Writer, "write", None)
  got = made(home)
  assert got.identity == want.identity and got.about == want.about
  np.testing.assert_array_equal(got.tokens("test").ids, want.tokens("test").ids)


def test_splits_that_hold_nothing_and_wrong_names(home):
  for changes, want in (
    (
      {"validation": 0.0},
      "the validation split holds no pairs: raise --data.v",
    ),
    ({"test": 0.0}, "the test split holds no pairs: raise --data.test"),
  ):
    with pytest.raises(ValueError, match=want):
      made(home, **changes).held_out(want.split()[1], 4)
  with pytest.raises(ValueError, match=r"--validation.split=dev: one of train"):
    made(home).tokens("dev")
  with pytest.raises(ValueError, match="train split holds no pairs: lower"):
    made(home, ("labels", LABELS)).train(4, 0)
  with pytest.raises(ValueError, match="one positive number for each of 1"):
    Preferences(weights=(1.0, 2.0))
  files = [("a", ROWS), ("labels", LABELS)]
  with pytest.raises(ValueError, match=r"no preferences \(--data.sources.1\)"):
    made(home, *files).train(4, 0)
