"""Prompts that teach nothing give way to others, and none is asked twice."""

import dataclasses
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest

from llm_jax import on_policy, redrawing
from llm_jax.contracts import Verdict
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives import group
from llm_jax.objectives.shaping import Shaping
from llm_jax.sharding import mesh as mesh_lib

K, G, T = 2, 3, 4
B = K * G
PROMPTS = [on_policy.Prompt((("user", str(i)),), [i]) for i in range(10)]
STATE = SimpleNamespace(roles=None)
OBJECTIVE = group.dapo(K)


def drawn(score_B, width=T, value=1):
  score_B = np.array(score_B, np.float32)
  return {
    "earned_B": score_B,
    "row_B": value + np.arange(len(score_B)),
    "x_BT": np.full((len(score_B), width), value),
  }


def test_groups_that_differ_come_first_in_their_order():
  each = [
    drawn([1, 1, 0, 1, 0, 0], value=10),
    drawn([0, 0, 1, 0, 2, 2], value=20, width=6),
    drawn([1, 0, 1, 0, 1, 0], value=30),
  ]
  rows, drawings, flat = redrawing.gathered(each.__getitem__, 5, K)
  assert drawings == 3  # not 5: it is full
  assert rows["row_B"].tolist() == [12, 13, 22, 23, 30, 31]
  assert flat == pytest.approx(4 / 9)
  # Rows end where they ended; shorter ones begin later.
  assert rows["x_BT"][0].tolist() == [0, 0, 10, 10, 10, 10]
  assert rows["x_BT"][2].tolist() == [20] * 6


def test_what_comes_is_taken_where_no_more_is_allowed():
  each = [drawn([1, 1, 0, 1, 0, 0], value=v) for v in (10, 20)]
  rows, drawings, flat = redrawing.gathered(each.__getitem__, 1, K)
  assert rows is each[0] and drawings == 1 and flat == pytest.approx(2 / 3)
  rows, drawings, _ = redrawing.gathered(each.__getitem__, 2, K)
  # Two differ; the third is the first of those that do not.
  assert rows["row_B"].tolist() == [12, 13, 22, 23, 10, 11]
  assert drawings == 2


class Told:
  """A source over a model of numbers: who was asked, and which keys drew."""

  def __init__(self, drawings=4, dull=(), prompts=PROMPTS, scale="none"):
    self.asked, self.keys = [], []
    self.source = on_policy.OnPolicy(
      Rollouts(
        batch=B,
        epochs=2,
        max_new_tokens=T,
        drawings=drawings,
        widths=1,
        packing=0,
      ),
      Shaping(missing_eos="keep", scale=scale),
      OBJECTIVE,
      prompts,
      on_policy.Functions(self.draw, self.score),
      on_policy.Reward(lambda ids: str(ids[0]), self.judge),
      (0, 0),
      seed=3,
      batch_size=K,
      group=K,
      mesh=mesh_lib.make(mesh_lib.MeshShape(1, 1, 1)),
    )
    self.dull = dull

  def draw(self, roles, batch, key):
    del roles
    self.keys.append(jax.random.key_data(key).tolist())
    ids = jax.random.randint(key, (B, T), 100, 1000)
    return {
      "target_BT": ids,
      "tokens_BT": ids,
      "prompt_BT": np.tile(batch["prompt_BP"][:, -1:], T),
      "mask_BT": np.ones((B, T), bool),
      "sampled_logp_BT": np.zeros((B, T), np.float32),
      "ended_B": np.ones(B, bool),
      "limit_B": np.full(B, T),
    }

  def score(self, roles, batch):
    del roles
    return {"old_logp_BT": batch["sampled_logp_BT"]}

  def judge(self, questions):
    self.asked += [q.messages[0][1] for q in questions]
    return [
      Verdict(
        (1.0,) * K
        if q.messages[0][1] in self.dull
        else tuple(map(float, [*q.completions]))
      )
      for q in questions
    ]

  def minibatches(self, count):
    return [
      {n: np.asarray(x) for n, x in self.source.next(STATE).items()}
      for _ in range(count)
    ]


DULL = tuple("02468")
UPDATE = 2 * B // K  # minibatches of an update


def test_prompts_go_on_where_the_last_drawing_ended():
  """Over the end of a pass, too; each pass asks each prompt once."""
  it = Told(dull=DULL)
  found = it.minibatches(3 * UPDATE)
  for batch in found:
    assert batch["told_flat_B"].all()
    assert (batch["prompt_BT"] % 2 == 1).all()  # those that teach
    assert np.abs(batch["advantage_BT"]).min() > 0
  for begin in range(0, len(it.asked) - 9, 10):
    assert sorted(it.asked[begin : begin + 10]) == sorted(map(str, range(10)))
  assert len(it.asked) > 3 * G  # drawn again it was
  assert len(it.asked) == G * len(it.keys)
  assert it.source.get_state()["asked"] == len(it.asked)
  assert len(set(map(tuple, it.keys))) == len(it.keys)  # each with its own key
  drawings = [b["told_drawings_B"][0] for b in found[::UPDATE]]
  assert sum(drawings) == len(it.keys) and max(drawings) > 1


def test_scores_of_several_drawings_are_of_one_scale():
  """That of the first; or, in the end, of all that was judged."""
  it = Told(dull=DULL, scale="first")
  found = it.minibatches(UPDATE)
  assert len(it.keys) > 1
  size, _, _ = it.source.get_state()["moments"]
  scale = [b["told_judged_B"] / b["told_score_B"] for b in found]
  assert size == B
  np.testing.assert_allclose(scale, scale[0][0], rtol=1e-5)
  it = Told(dull=DULL, scale="running")
  it.minibatches(UPDATE)
  size, _, _ = it.source.get_state()["moments"]
  assert size == B * len(it.keys) > B


def test_one_drawing_is_as_it_was():
  one, again = Told(drawings=1, dull=DULL), Told(drawings=4)
  for a, b in zip(
    one.minibatches(UPDATE), again.minibatches(UPDATE), strict=True
  ):
    np.testing.assert_array_equal(a["target_BT"], b["target_BT"])
    assert "told_drawings_B" not in a and (b["told_drawings_B"] == 1).all()
  assert one.keys == again.keys and one.asked == again.asked


@pytest.mark.parametrize("after", [UPDATE, UPDATE + 2])
def test_it_goes_on_the_same_between_updates_and_within(after):
  whole = Told(dull=DULL)
  wanted = whole.minibatches(3 * UPDATE)[after:]
  begun = Told(dull=DULL)
  begun.minibatches(after)
  saved = begun.source.get_state()
  assert begun.asked != whole.asked and saved["asked"] > G  # it drew again

  def goes_on(saved):
    it = Told(dull=DULL)
    it.source.set_state(saved)
    found = it.minibatches(3 * UPDATE - after)
    return all(
      (a[n] == b[n]).all()
      for a, b in zip(wanted, found, strict=True)
      for n in a
    )

  assert goes_on(saved)
  # The mutant: prompts counted by updates, as if each had drawn once.
  assert not goes_on({n: x for n, x in saved.items() if n != "asked"})
  assert not goes_on({**saved, "asked": saved["asked"] + 1})


def test_runs_of_before_go_on():
  """Their positions do not say how many prompts were asked."""
  it, again = Told(drawings=1), Told(drawings=1)
  it.minibatches(UPDATE)
  saved = it.source.get_state()
  del saved["asked"]
  again.source.set_state(saved)
  again.minibatches(UPDATE)
  it.minibatches(UPDATE)
  assert it.asked[G:] == again.asked


def test_too_few_are_told_once(capsys):
  it = Told(drawings=3, dull=[str(i) for i in range(1, 10)])
  found = it.minibatches(2 * UPDATE)
  assert len(found) == 2 * UPDATE
  assert len(it.keys) == 6
  said = capsys.readouterr().err
  assert said.count("--rollouts.drawings=3: of 9 prompts only") == 1
  assert any(not b["advantage_BT"].any() for b in found)


def test_a_judge_that_fails_moves_nothing():
  """In a second drawing: what is saved then is where the update began."""
  it = Told(dull=DULL)
  it.minibatches(UPDATE)
  before = it.source.get_state()
  judge, calls = it.judge, []

  def fails(questions):
    calls.append(1)
    if len(calls) == 2:
      raise ValueError("no")
    return judge(questions)

  broken = it.source._reward._replace(score=fails)
  with mock.patch.object(it.source, "_reward", broken):
    with pytest.raises(ValueError, match="no"):
      it.source.next(STATE)
  assert it.source.get_state() == before


@pytest.mark.parametrize(
  "verdicts, said",
  [
    ([Verdict((1.0, 2.0))] * (G - 1), "4 scores for 6 completions"),
    ([Verdict((1.0, 2.0))] * (G + 1), "8 scores for 6 completions"),
    ([Verdict((1.0,))] * B, "6 scores for 6 completions"),
    ([Verdict((1.0, float("nan")))] * G, "a score is nan"),
    ([Verdict((1.0, "2"))] * G, "a score is '2', no finite number"),
  ],
)
def test_what_is_no_score_of_each_completion_is_told(verdicts, said):
  it = Told()
  wrong = it.source._reward._replace(score=lambda asked: verdicts)
  with mock.patch.object(it.source, "_reward", wrong):
    with pytest.raises(ValueError, match=f"--judge: {said}"):
      it.source.next(STATE)
  it.minibatches(1)  # it can still be asked


def test_overlong_completions_lose_as_eq_13_says():
  """Known answers by hand, at a limit of 20 and a buffer of 4."""
  shaping = Shaping(missing_eos="keep", overlong=4)
  lengths = np.array([1, 15, 16, 17, 18, 19, 20])
  lost = shaping.too_long(lengths, 20)
  assert lost.tolist() == [0, 0, 0, 0.25, 0.5, 0.75, 1]
  half = dataclasses.replace(shaping, overlong_penalty=0.5)
  assert half.too_long(lengths, 20).tolist() == (lost / 2).tolist()
  assert not Shaping().too_long(lengths, 20).any()

  def eq_13(size, longest=20, cache=4):
    if size <= longest - cache:
      return 0
    return ((longest - cache) - size) / cache if size <= longest else -1

  assert (-lost).tolist() == [eq_13(n) for n in lengths]


def test_what_is_too_long_is_learned_from():
  plain, taken = Told(), Told()
  taken.source._shaping = Shaping(
    missing_eos="keep", overlong=T, overlong_penalty=7.0
  )
  a, b = (it.minibatches(1)[0] for it in (plain, taken))
  np.testing.assert_allclose(a["score_B"] - 7, b["score_B"])
  np.testing.assert_array_equal(a["earned_B"], b["earned_B"])
