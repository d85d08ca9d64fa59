"""Judged completions as rows, and a journal that a kill does not hurt."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from llm_jax.data.conversation import Message
from llm_jax.data.conversations import Conversations
from llm_jax.data.labelled import Journal, Judged
from llm_jax.data.preference_sources import PreferenceFiles

ROOT = pathlib.Path(__file__).parent.parent.parent
PROMPT = (Message("system", "be"), Message("user", "say"))
JUDGED = Judged(
  PROMPT, ("a", "bb", "c"), (1.0, -0.5, 1.0), False, "why", 0.25, "task"
)
ABOUT = {"--seed": 1, "--judge": {"class": "x", "most": 3}, "stop": ("a",)}


def read(rows):
  source = PreferenceFiles()
  return [source.read(json.loads(json.dumps(row)), "here") for row in rows]


def test_scores_are_read_back_as_they_are():
  (found,) = read(JUDGED.rows())
  assert found == JUDGED.preference()
  assert found.kind == "score" and found.values == (JUDGED.scores,)
  assert found.prompt == PROMPT and found.place == 0.25 and found.task == "task"
  assert found.pairs().pairs == [(0, 1), (2, 1)]
  assert JUDGED.rows()[0]["reason"] == "why"


def test_ranks_are_read_back_as_they_are():
  ranks = Judged(PROMPT, ("a", "bb", "c"), (-1.0, 0.0, -1.0), ordinal=True)
  (found,) = read(ranks.rows())
  assert found == ranks.preference() and found.kind == "order"
  assert found.ranks() == [1, 0, 1] and found.pairs().margins == [0.0, 0.0]
  (found,) = read(ranks.rows("me"))
  assert found.labellers == ("me",) and found.ranks() == [1, 0, 1]
  two = Judged(PROMPT, ("a", "bb"), (0.0, -1.0), ordinal=True)
  (row,) = two.rows()
  assert (row["chosen"], row["rejected"]) == ("a", "bb")


def test_a_tie_of_all_is_no_row():
  assert Judged(PROMPT, ("a", "b"), (2.0, 2.0)).rows() == []
  assert Judged(PROMPT, ("a",), (2.0,)).rows() == []
  assert Judged(PROMPT, (), ()).rows() == []


def test_the_best_are_conversations():
  rows = JUDGED.best(keep=2)
  found = [Conversations().read(row, "here") for row in rows]
  assert [c.answer for c in found] == ["a", "c"]  # the first of those as good
  assert found[0].question.messages == PROMPT
  # What was held out stays so.
  assert [c.placed for c in found] == [JUDGED.place] * 2
  hashed = dataclasses.replace(JUDGED, place=None)
  (row,) = hashed.best()
  assert Conversations().read(row, "here").placed == hashed.preference().placed
  assert hashed.preference().placed != JUDGED.place
  assert [r["score"] for r in JUDGED.best(keep=3)] == [1, 1, -0.5]
  assert [r["score"] for r in JUDGED.best(keep=3, accept=0.0)] == [1, 1]
  assert JUDGED.best(accept=1.5) == []


def test_a_journal_is_gone_on_with(tmp_path):
  path = tmp_path / "new" / "a.asked"
  with Journal(path, ABOUT, "--into=a") as journal:
    journal.add("k", JUDGED)
  with Journal(path, ABOUT, "--into=a") as journal:
    assert "k" in journal and "j" not in journal and journal["k"] == JUDGED
    journal.add("j", Judged(PROMPT, (), ()))
  with Journal(path, ABOUT, "--into=a") as journal:
    assert "j" in journal


def test_a_line_cut_anywhere_is_dropped_and_the_rest_stays(tmp_path):
  path = tmp_path / "a.asked"
  with Journal(path, ABOUT, "--into=a") as journal:
    journal.add("k", JUDGED)
  before = path.read_bytes()
  with Journal(path, ABOUT, "--into=a") as journal:
    journal.add("j", JUDGED)
  whole = path.read_bytes()
  for end in range(len(whole)):
    path.write_bytes(whole[:end])
    with Journal(path, ABOUT, "--into=a") as journal:
      assert ("k" in journal) == (end >= len(before))
      assert "j" not in journal
      for key in ("k", "j"):
        if key not in journal:
          journal.add(key, JUDGED)
    assert path.read_bytes() == whole


def test_other_settings_are_refused_by_name(tmp_path):
  path = tmp_path / "a.asked"
  Journal(path, ABOUT, "--into=a").close()
  before = path.read_bytes()
  for change, named in (
    ({"--seed": 2}, "--seed: 1 there, 2 here"),
    (
      {"--judge": {"class": "y"}},
      "--judge.class: 'x' there, 'y' here; --judge.most: 3",
    ),
    ({"new": 1}, "new: None there, 1 here"),
  ):
    with pytest.raises(ValueError, match="--into=a: .*other settings") as e:
      Journal(path, ABOUT | change, "--into=a")
    assert named in str(e.value) and "\n" not in str(e.value)
  assert path.read_bytes() == before


@pytest.mark.parametrize(
  "text",
  [
    "x",
    "x\n",
    '{"about": {}}\n{"key"\n',
    "[]\n",
    '{"about": {}}\n{}\n',
    '{"key": 1}\n',
    "3\n",
  ],
)
def test_another_file_is_no_journal(tmp_path, text):
  path = tmp_path / "a.asked"
  path.write_text(text)
  with pytest.raises(ValueError, match="not a journal of labels"):
    Journal(path, {}, "--into=a")
  assert path.read_text() == text


def test_one_writes_at_a_time(tmp_path):
  path = tmp_path / "a.asked"
  with Journal(path, ABOUT, "--into=a"):
    with pytest.raises(ValueError, match="another process is labelling"):
      Journal(path, ABOUT, "--into=a")
  Journal(path, ABOUT, "--into=a").close()


WRITER = """
import pathlib, sys
from llm_jax.data.labelled import Journal, Judged
with Journal(pathlib.Path(sys.argv[1]), {"a": 1}, "") as journal:
  for i in range(10**9):
    journal.add(str(i), Judged((), ("x" * (i % 5000), "y"), (0.0, 1.0)))
    print(i, flush=True)
"""


def test_what_was_told_survives_a_kill(tmp_path):
  path = tmp_path / "a.asked"
  with subprocess.Popen(
    [sys.executable, "-c", WRITER, str(path)],
    stdout=subprocess.PIPE,
    env=dict(os.environ, PYTHONPATH=str(ROOT)),
    text=True,
  ) as writer:
    assert writer.stdout is not None
    for line in writer.stdout:
      if line == "30\n":
        writer.send_signal(signal.SIGKILL)
        break
    told = [30, *map(int, writer.stdout.read().split())]
  with Journal(path, {"a": 1}, "") as journal:
    for i in range(max(told) + 1):
      assert journal[str(i)].completions == ("x" * (i % 5000), "y")
