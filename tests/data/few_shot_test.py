"""Shown examples are the pool's, the same each time, and never the question."""

import pytest

from llm_jax.data import few_shot
from tests.data.chats import talk

POOL = [
  talk(f"q{i}", f"a{i}", task="ab"[i % 2], system="be brief") for i in range(40)
]


def ask(i, system=""):
  return talk(f"q{i}", "?", task="ab"[i % 2], system=system).question


def test_none_changes_nothing():
  assert few_shot.show(ask(1), POOL, 0) == ask(1)
  assert few_shot.show(ask(1), [], 0) == ask(1)


@pytest.mark.parametrize("count", [1, 3])
def test_earlier_turns_are_answered_examples_of_the_task(count):
  for i in range(20):
    shown = few_shot.show(ask(i, "think"), POOL, count)
    first, *turns = shown.messages
    assert (first.role, first.content) == ("system", "think")
    assert turns[-1] == ask(i).messages[-1]
    pairs = list(zip(turns[:-1:2], turns[1:-1:2], strict=True))
    assert len(pairs) == len(set(pairs)) == count
    for asked, answered in pairs:
      assert asked.content[1:] == answered.content[1:] != str(i)
      assert int(asked.content[1:]) % 2 == i % 2
      assert (asked.role, answered.role) == ("user", "assistant")


def test_chosen_by_the_question_alone():
  one = [few_shot.show(ask(i), POOL, 2) for i in range(30)]
  assert one == [few_shot.show(ask(i), POOL, 2) for i in range(30)]
  assert len({c.messages[:-1] for c in one}) > 20


def test_a_rare_task_has_its_examples_found():
  pool = [talk(f"q{i}", "a", task="c") for i in range(5000)]
  rare = [talk(f"r{i}", f"b{i}", task="d") for i in range(3)]
  pool[1000:1000] = rare
  shown = few_shot.show(talk("r0", "?", task="d").question, pool, 2)
  assert sorted(m.content for m in shown.messages[1:-1:2]) == ["b1", "b2"]


def test_too_few_to_show():
  with pytest.raises(ValueError, match="3 examples to show: .* has 2 of a"):
    few_shot.show(ask(0), POOL[:5], 3)  # 0, 2, 4, of which 0 is asked
