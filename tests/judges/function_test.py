"""Functions of one's own: their scores, and whatever they do instead."""

import threading
import time

import pytest

from llm_jax.contracts import Question
from llm_jax.judges.function import ByFunction, Function

PROMPT = (("system", "be brief"), ("user", "say"))
BODY = """
import time

def length(prompt, completion, reference):
  assert prompt == "be brief\\nsay"
  return len(completion) + 0.5 * (completion == reference)

def slow(prompt, completion, reference):
  time.sleep(60 if completion == "stuck" else 0.05)
  return 1

def odd(prompt, completion, reference):
  if completion == "raises":
    raise KeyError("what")
  if completion == "late":
    raise TimeoutError("of another kind")
  if completion == "exits":
    raise SystemExit(3)
  return {"nan": float("nan"), "text": "1", "true": True, "none": None}.get(
    completion, 2
  )

number = 3

def together(prompts, completions, references):
  assert isinstance(prompts, list) and len(prompts) == len(references)
  if "stuck" in completions:
    time.sleep(60)
  if "raises" in completions:
    raise KeyError("what")
  if "text" in completions:
    return "1" * len(completions)
  if "short" in completions:
    return [1.0]
  if "none" in completions:
    return None
  return [
    float("nan") if c == "nan" else len(p) + len(c) + (c == r)
    for p, c, r in zip(prompts, completions, references)
  ]
"""


@pytest.fixture
def path(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(BODY)
  return str(file)


def scores(path, name, *completions, reference=None, **settings):
  judge = ByFunction(Function(f"{path}:{name}", **settings))
  (found,) = judge([Question(PROMPT, completions, reference)])
  return list(found.scores)


def test_scores_are_the_functions_fractions_and_order_kept(path):
  found = scores(path, "length", "a", "abc", "ab", reference="abc")
  assert found == [1, 3.5, 2]


def test_numbers_of_numpy_are_numbers(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "import numpy\ndef f(p, c, r):\n  return getattr(numpy, c)(2)\n"
  )
  kinds = ("float32", "float64", "int32")
  assert scores(str(file), "f", *kinds) == [2, 2, 2]
  with pytest.raises(ValueError, match="no number"):
    scores(str(file), "f", "ones")


def test_what_decides_is_the_code_wherever_it_is(path, tmp_path):
  about = ByFunction(Function(f"{path}:length")).about
  file = tmp_path / "moved.py"
  file.write_text(BODY)
  moved = Function(f"{file}:length", concurrency=1)
  assert ByFunction(moved).about == about
  assert ByFunction(Function(f"{path}:odd")).about != about
  file.write_text(BODY.replace("0.5", "0.6"))
  assert ByFunction(moved).about != about


def test_scores_of_several_questions_are_told_apart(path):
  judge = ByFunction(Function(f"{path}:length"))
  asked = [Question(PROMPT, ("a", "ab")), Question(PROMPT, ("abc",))]
  assert [v.scores for v in judge(asked)] == [(1, 2), (3,)]


def test_slow_ones_run_side_by_side(path):
  begun = time.monotonic()
  assert scores(path, "slow", *map(str, range(20)), concurrency=20) == [1] * 20
  assert time.monotonic() - begun < 0.6  # 1 second one after another


@pytest.mark.parametrize(
  "completion", ["raises", "exits", "late", "nan", "text", "true", "none"]
)
def test_what_is_no_score_stops_the_run_or_has_one(path, completion):
  raised = {"raises": "KeyError: 'what'", "exits": "SystemExit: 3"}
  raised["late"] = "TimeoutError: of another kind"
  said = raised.get(completion, "gave")
  with pytest.raises(ValueError, match=f"mine.py:odd: .*{said}"):
    scores(path, "odd", "fine", completion)
  found = scores(path, "odd", completion, "fine", failed=-1.0)
  assert found == [-1, 2]


def test_all_at_once_are_told_apart(path):
  judge = ByFunction(Function(f"{path}:together", together=True))
  asked = [
    Question(PROMPT, ("a", "ab"), "ab"),
    Question((("user", "x"),), ("abc",)),
  ]
  found = [v.scores for v in judge(asked)]
  assert found == [(13, 15), (4,)]
  assert list(judge([])) == []


@pytest.mark.parametrize(
  "completion, said",
  [
    ("raises", "raised KeyError: 'what'"),
    ("text", "gave '11', no list of scores"),
    ("none", "gave None, no list of scores"),
    ("short", "gave 1 scores for 2"),
    ("stuck", "took longer than --judge.timeout=0.3"),
    ("nan", "gave nan"),
  ],
)
def test_all_at_once_fail_at_once_unless_it_is_one_score(
  path, completion, said
):
  given = {"together": True, "timeout": 0.3}
  with pytest.raises(ValueError, match=f"mine.py:together: {said}"):
    scores(path, "together", "fine", completion, **given)
  begun = time.monotonic()
  found = scores(path, "together", "fine", completion, failed=-1.0, **given)
  assert time.monotonic() - begun < 0.5  # one call is waited for once
  assert found == ([16, -1] if completion == "nan" else [-1, -1])


@pytest.mark.parametrize("failed", [float("nan"), float("inf")])
def test_what_a_failure_is_worth_is_a_number(failed):
  with pytest.raises(ValueError, match="--judge.failed=.*: must be a finite"):
    Function("mine.py:f", failed=failed)


def test_a_call_that_does_not_end_holds_nothing_up(path):
  with pytest.raises(ValueError, match="took longer than --judge.timeout=0.2"):
    scores(path, "slow", "stuck", timeout=0.2)
  # With one thread, too, those after it are scored.
  found = scores(
    path, "slow", "stuck", "a", "b", timeout=0.2, concurrency=1, failed=0.0
  )
  assert found == [0, 1, 1]
  assert all(
    t.daemon for t in threading.enumerate() if t.name.endswith("(work)")
  )


@pytest.mark.parametrize(
  "given, said",
  [
    ("", "expected FILE.py:NAME"),
    ("mine.py", "expected FILE.py:NAME"),
    ("nowhere.py:f", "there is no file nowhere.py"),
    ("{}:nothing", "has no function nothing"),
    ("{}:number", "has no function number"),
  ],
)
def test_a_path_that_names_no_function_is_told(path, given, said):
  with pytest.raises(ValueError, match=said):
    ByFunction(Function(given.format(path)))


def test_a_file_that_does_not_run_is_told(tmp_path):
  (tmp_path / "broken.py").write_text("def f(:")
  with pytest.raises(ValueError, match="broken.py:f: SyntaxError"):
    ByFunction(Function(f"{tmp_path}/broken.py:f"))
