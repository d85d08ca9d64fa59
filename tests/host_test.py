"""What processes of a job tell each other."""

import contextlib
from unittest import mock

import numpy as np
import pytest

from llm_jax import host


def check(texts):
  """What each process is told, where each has a text of its own."""
  said = [None] * len(texts)

  def all_of_them(mine):
    return np.stack([digests[t] for t in texts])

  digests = {}
  for text in texts:  # once to learn what it would send
    keep = lambda mine, text=text: digests.setdefault(text, mine)[None]
    with several(len(texts), keep):
      host.check_same(text, "--data: the text")
  for i, text in enumerate(texts):
    with several(len(texts), all_of_them):
      try:
        host.check_same(text, "--data: the text")
      except ValueError as e:
        said[i] = str(e)
  return said


@contextlib.contextmanager
def several(count, gather):
  ours = "jax.experimental.multihost_utils.process_allgather"
  with mock.patch(ours, gather), mock.patch("jax.process_count", lambda: count):
    yield


def test_the_same_text_everywhere_is_nothing_to_tell():
  assert check(["a", "a", "a"]) == [None] * 3
  host.check_same("a", "alone")  # asks nobody


@pytest.mark.parametrize(
  "texts,named", [("aba", "1"), ("baaa", "0"), ("aabc", "2, 3")]
)
def test_who_has_another_text_is_named_to_all(texts, named):
  (said,) = set(check(list(texts)))
  assert said.startswith(f"--data: the text of process {named} is not that of")
