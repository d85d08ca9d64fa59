"""What a judge says is the same in all processes."""

import jax
import numpy as np
import pytest

from llm_jax import host, scoring
from llm_jax.contracts import Question, Verdict
from llm_jax.judges.function import Function
from llm_jax.judges.reward import RewardModel
from llm_jax.judges.rules import Length
from llm_jax.judges.weighted import Sum

ASKED = [Question((("user", "say"),), ("a", "b"))]
SAID = Verdict((1.5, -2.0), reason="so", parts=(("x", (1.0, 2.0)),))


class Processes:
  """What each of two says, one after the other; all hear the first."""

  def __init__(self, monkeypatch):
    self.index, self.heard = 0, []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: self.index)
    monkeypatch.setattr(host, "first_says", self._says)

  def _says(self, text):
    if self.index == 0:
      self.heard.append(text)
    return self.heard[-1]

  def each(self, judges, settings):
    found = []
    for self.index, judge in enumerate(judges):
      try:
        found.append(scoring.asker(judge, settings)(ASKED))
      except ValueError as e:
        found.append(e)
    return found


def judges(said):
  """Two that are asked, and how often; the second says something else."""
  asked = [0, 0]

  def made(i):
    def judge(questions):
      asked[i] += 1
      if isinstance(said[i], Exception):
        raise said[i]
      yield from [said[i]] * len(questions)

    return judge

  return [made(0), made(1)], asked


def test_the_first_process_is_asked_and_the_others_hear_of_it(monkeypatch):
  both, asked = judges([SAID, Verdict((9.0, 9.0))])
  found = Processes(monkeypatch).each(both, Function("mine.py:f"))
  assert found == [[SAID], [SAID]] and asked == [1, 0]


@pytest.mark.parametrize(
  "settings",
  [RewardModel(run="r"), Sum((Length(), RewardModel(run="r")), (1.0, 1.0))],
)
def test_a_model_on_the_mesh_needs_all(settings, monkeypatch):
  both, asked = judges([SAID, Verdict((1.4, -2.0))])
  found = Processes(monkeypatch).each(both, settings)
  assert found == [[SAID], [SAID]] and asked == [1, 1]


def test_all_fail_where_the_first_does(monkeypatch):
  both, _ = judges([ValueError("--judge: no"), SAID])
  found = Processes(monkeypatch).each(both, Length())
  assert [str(e) for e in found] == ["--judge: no"] * 2
  assert all(isinstance(e, host.SharedError) for e in found)


def test_one_process_hears_its_own():
  (judge, _), asked = judges([SAID, SAID])
  assert scoring.asker(judge, Length())(ASKED) == [SAID] and asked == [1, 0]
  (judge, _), _ = judges([ValueError("no"), SAID])
  with pytest.raises(ValueError, match="no") as raised:
    scoring.asker(judge, Length())(ASKED)
  assert not isinstance(raised.value, host.SharedError)


def test_text_is_told_as_bytes_and_their_number(monkeypatch):
  """Of any length in any process; each hears what the first has."""
  first, told = "so it is: ä\n" * 3, []

  def broadcast(x):
    told.append(x)
    data = np.frombuffer(first.encode(), np.uint8)
    here = np.array(len(data)) if x.ndim == 0 else data
    assert x.shape == here.shape  # else collectives would not fit each other
    return here

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    "jax.experimental.multihost_utils.broadcast_one_to_all", broadcast
  )
  for text in (first, "", "something longer than what the first one has" * 9):
    assert host.first_says(text) == first
  assert len(told) == 6
