"""Wordings hold what they name, and each row has the same one for ever."""

import collections

import pytest

from llm_jax.data import stdlib_tasks, templates
from llm_jax.data.templates import Task

ALL = {**templates.TASKS, **stdlib_tasks.TASKS}
TWO = Task(("A {x}", "B {x}", "C {x} {y}", "D {y} {x}"), "z")


def ask(task, **row):
  return templates.ask(task, row.get, "a.jsonl:7", list(row))


def message(task, **row):
  with pytest.raises(ValueError) as e:
    ask(task, **row)
  return str(e.value)


@pytest.mark.parametrize("name", ALL)
def test_every_task_has_several_wordings_with_its_fields(name):
  task = ALL[name]
  assert len(set(task.wordings)) == len(task.wordings) >= 2
  names = {n for w in task.wordings for n in templates.fields(w)}
  row = {n: f"<{n}>" for n in names | {task.answer}}
  seen = set()
  for i in range(200):
    row[task.answer] = str(i)
    question, answer = ask(task, **row)
    assert answer == str(i)
    assert all(f"<{n}>" in question for n in names - {task.answer})
    assert task.answer not in names  # or the answer would be in the question
    seen.add(question)
  most = max(len(templates.fields(w)) for w in task.wordings)
  full = [w for w in task.wordings if len(templates.fields(w)) == most]
  assert len(seen) == len(full) >= 2


@pytest.mark.parametrize("name", templates.TASKS)
def test_the_least_that_a_row_must_have(name):
  task = templates.TASKS[name]
  least = min((templates.fields(w) for w in task.wordings), key=len)
  assert len(least) == 1
  question, _ = ask(task, **{least[0]: "x!", task.answer: "y"})
  assert "x!" in question and "{" not in question


def test_wordings_that_use_most_of_a_row():
  assert ask(TWO, x="1", z="2")[0] in ("A 1", "B 1")
  assert ask(TWO, x="1", y="3", z="2")[0] in ("C 1 3", "D 3 1")


def test_choice_is_even_and_by_content_alone():
  counts = collections.Counter(
    ask(TWO, x=str(i), z="z")[0][0] for i in range(1000)
  )
  assert set(counts) == {"A", "B"} and min(counts.values()) > 400
  one = [ask(TWO, x=str(i), z="z") for i in range(50)]
  assert one[::-1] == [ask(TWO, x=str(i), z="z") for i in range(49, -1, -1)]
  # A field that no wording uses changes nothing.
  assert one == [ask(TWO, x=str(i), z="z", id=str(i)) for i in range(50)]


def test_known_choice():
  """No release of Python or of this code chooses others."""
  chosen = "".join(ask(TWO, x=str(i), z="z")[0][0] for i in range(12))
  assert chosen == "ABBBBABBABBB"


def test_values_are_never_read_as_wordings():
  assert templates.fill("{x} and {y}", {"x": "{y}", "y": "{x} \\1"}) == (
    "{y} and {x} \\1"
  )


def test_an_absent_field_is_named():
  said = message(TWO, y="1", z="2")
  assert said == (
    "a.jsonl:7: the template 'A {x}' names the field 'x', which is absent;"
    " fields here: y, z"
  )
  said = message(TWO, x="1")
  assert "a.jsonl:7: no text in field 'z', which is the answer" in said
