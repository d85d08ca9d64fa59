"""A judge behind an address, asked about a question of two completions."""

import traceback

import pytest

from llm_jax.contracts import Question

PROMPT = (("user", "say"),)
TWO = Question(PROMPT, ("a", "bbb"))


def fails(by, server, questions=(TWO,), **more):
  """The one line of an error, with its traceback beside it."""
  with pytest.raises(ValueError) as e:
    by(server, list(questions), **more)
  line = str(e.value)
  assert line.startswith("--judge.url=http://127.0.0.1") and "\n" not in line
  return line, "".join(traceback.format_exception(e.value))
