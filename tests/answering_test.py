"""Scores of drawn answers, by judges of one line each."""

import numpy as np
import pytest

from llm_jax import answering
from llm_jax.contracts import Verdict
from llm_jax.data.conversation import Conversation, Message
from llm_jax.data.questions import Example


def examples(count):
  turns = lambda i: (Message("user", f"{i}?"), Message("assistant", f"{i}"))
  return [Example([i], f"{i}", Conversation(turns(i))) for i in range(count)]


def scores(judge, texts_PN):
  judging = answering.Judging(
    len(texts_PN[0]), {"score": judge}, {"score": "x"}
  )
  asked = examples(len(texts_PN))
  return answering._scores("data", judging, asked, texts_PN)["score"]


def test_an_answer_drawn_twice_counts_twice_and_is_judged_once():
  asked = []

  def judge(questions):
    for q in questions:
      asked.append((q.messages[0][1], q.completions, q.reference))
      yield Verdict(tuple(float(len(c)) for c in q.completions))

  texts_PN = [["a", "bb", "a"], ["ccc", "", "d"]]
  got_PN = scores(judge, texts_PN)
  assert got_PN.tolist() == [[1, 2, 1], [3, 0, 1]]
  assert asked == [("0?", ("a", "bb"), "0"), ("1?", ("ccc", "", "d"), "1")]


def test_many_questions_are_asked_some_at_a_time():
  sizes = []

  def judge(questions):
    sizes.append(len(questions))
    for q in questions:
      yield Verdict((float(q.messages[0][1][:-1]),))

  got_PN = scores(judge, [["a"]] * 160)
  assert got_PN[:, 0].tolist() == np.arange(160).tolist()
  assert sizes == [64, 64, 32]


def test_a_judge_without_scores_is_refused():
  with pytest.raises(ValueError, match="which answer is better and not how"):
    scores(lambda qs: (Verdict((1.0, 0.0), True) for _ in qs), [["a", "b"]])
