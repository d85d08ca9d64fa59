"""Rows completed anew are the rows that a source would have made.

Dimension key: B rows; T positions; N new tokens.
"""

import jax.numpy as jnp
import numpy as np

from llm_jax.generation import completing
from llm_jax.generation.decode import Rollout

T, N, START = 10, 6, 7
PROMPTS = [[1, 2, 3], [], [4], [5, 6, 8, 9, 1, 2, 3]]
ANSWERS = [[11, 12], [13], [14, 15, 16, 17, 18, 19], [21, 22, 23]]
OTHERS = [[31], [32, 33, 34], [35, 36, 37], [41, 42, 43, 44, 45, 46]]


def rows(answers):
  """As a source lays them out, a token after the other."""
  names = ("tokens_BT", "target_BT", "mask_BT", "prompt_BT")
  out = {name: np.zeros((len(answers), T), np.int32) for name in names}
  for b, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
    before = START
    for t, token in enumerate([*prompt, *answer][:T]):
      out["tokens_BT"][b, t], out["target_BT"][b, t] = before, token
      out["prompt_BT"][b, t] = t < len(prompt)
      out["mask_BT"][b, t] = t >= len(prompt)
      before = token
  for name in names[2:]:
    out[name] = out[name].astype(bool)
  return out


def rollout(answers):
  tokens_BT = np.full((len(answers), N), 99, np.int32)
  for b, answer in enumerate(answers):
    tokens_BT[b, : len(answer)] = answer
  length_B = np.array([len(a) for a in answers], np.int32)
  mask_BT = np.arange(N) < length_B[:, None]
  logp_BT = np.zeros((len(answers), N))
  return Rollout(*map(jnp.asarray, (tokens_BT, mask_BT, logp_BT, length_B)))


def same(found, wanted):
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    np.testing.assert_array_equal(found[name], x, err_msg=name)
    assert found[name].dtype == x.dtype


def test_prompts_stand_on_the_right():
  prompt_BT, length_B = completing.prompts(rows(ANSWERS))
  for row, size, prompt in zip(prompt_BT, length_B, PROMPTS, strict=True):
    known = [START, *prompt]
    assert int(size) == len(known)
    assert row.tolist() == [0] * (T - len(known)) + known


def test_rows_are_as_a_source_makes_them():
  """Of shorter and longer ones, one that does not fit among them."""
  same(completing.completed(rows(ANSWERS), rollout(OTHERS)), rows(OTHERS))
  same(completing.completed(rows(OTHERS), rollout(ANSWERS)), rows(ANSWERS))


def test_what_is_untrained_at_an_end_goes_with_the_completion():
  """A template may say more after it: it is no part of the prompt."""
  given = rows(ANSWERS)
  at = len(PROMPTS[0]) + len(ANSWERS[0])
  given["target_BT"][0, at] = given["tokens_BT"][0, at + 1] = 50
  given["prompt_BT"][0, at] = True
  same(completing.completed(given, rollout(OTHERS)), rows(OTHERS))


def test_a_row_without_completion_stays_empty():
  none = {name: np.zeros_like(x) for name, x in rows(ANSWERS).items()}
  same(completing.completed(none, rollout(OTHERS)), none)
