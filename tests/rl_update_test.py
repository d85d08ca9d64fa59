"""A whole update of PPO by hand, and what each known mistake would make of it.

Numbers in names are those of details (d) and of mistakes of others (m) that
`tests/rl_*_test.py` speak of: Huang et al. 2024, arXiv:2403.17031, has most.

Dimension key: B completions; T positions.
"""

import dataclasses
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest

from llm_jax import keys, reinforcing, state_plan
from llm_jax import model as model_lib
from llm_jax.models import transformer
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.sampling import Sampler
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests import drawing

GAMMA, LAM, BETA, TEMPERATURE, N = 0.95, 0.9, 0.3, 0.7, 8
TARGET = 2.8  # nats, about what the second update finds


def settings(home, **changes):
  its = drawing.experiment(
    home,
    judge=drawing.lively(home),
    objective=PPO(gamma=GAMMA, lam=LAM, whiten_rewards=True, **changes),
    shaping=Shaping(
      missing_eos="subtract", beta=BETA, target=TARGET, horizon=100
    ),
    mesh=mesh_lib.MeshShape(1, 1, 1),
    microbatches=1,
  )
  # Dropout is for what is given, and averages are for what is kept: what was
  # drawn knows of neither.
  return dataclasses.replace(
    its, model=dataclasses.replace(its.model, dropout=0.3), average=0.9
  )


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
  """(settings, roles, batches, metrics, moves of beta) of two updates.

  The roles are those that the second update's completions were drawn by.
  """
  home = tmp_path_factory.mktemp("update")
  moves, next_beta = [], Shaping.next_beta

  def recorded(self, *given):
    moves.append((*given, next_beta(self, *given)))
    return moves[-1][-1]

  batches, numbers = [], []
  with (
    mock.patch.object(Shaping, "next_beta", recorded),
    drawing.begun(home, settings(home)) as (its, run),
  ):
    state = run.state
    for step in range(8):
      if step == 4:
        roles = jax.device_get(state.roles)
      batch = run.source.next(state)
      state, metrics = run.step(state, batch)
      batches.append(jax.device_get(batch))
      numbers.append({k: float(m.compute()) for k, m in metrics.items()})
  return its, roles, batches, numbers, moves


def joined(batches):
  """Rows of batches, each of its own width, with padding after them."""
  width = max(b["tokens_BT"].shape[1] for b in batches)
  wide = lambda x: np.pad(x, [(0, 0), (0, width - x.shape[1])])
  return {
    name: np.concatenate(
      [wide(b[name]) if name.endswith("_BT") else b[name] for b in batches]
    )
    for name in batches[0]
  }


def from_first(rows, name):
  """x_BT at N places from the first that was drawn, 0 where there are none."""
  at_BT = rows["mask_BT"].argmax(1)[:, None] + np.arange(N)
  return np.take_along_axis(np.pad(rows[name], [(0, 0), (0, N)]), at_BT, 1)


@pytest.fixture(scope="module")
def update(seen):
  """(what was drawn: all rows of the second update, what a forward says)."""
  its, roles, batches, *_ = seen
  rows = joined(batches[4:6])
  begin_B = rows["segment_BT"].argmax(1)
  T = rows["tokens_BT"].shape[1]
  at_BT = np.minimum(np.arange(T) + begin_B[:, None], T - 1)
  tokens_BT = np.take_along_axis(rows["tokens_BT"], at_BT, 1)
  with jax.enable_x64(True):
    apply = jax.jit(transformer.Decoder(shape(its)).apply)
    x = {role: np.asarray(apply(v, tokens_BT)) for role, v in roles.items()}
  found = []
  for b in range(len(tokens_BT)):
    params = {role: v["params"] for role, v in roles.items()}
    ids = rows["target_BT"][b][rows["mask_BT"][b]]
    at = slice(rows["mask_BT"][b].argmax() - begin_B[b], None)
    found.append(
      Drawn(
        ids,
        {r: x[r][b, at] @ params[r]["embedding"].T for r in LANGUAGE},
        (x["value"][b, at] @ params["value"]["output_head"])[:, 0],
      )
    )
  return rows, found


def shape(its):
  return dataclasses.replace(its.model, vocab_size=ByteTokenizer.vocab_size)


class Drawn(NamedTuple):
  """A completion; logits and values from the place before it on."""

  ids: np.ndarray
  logits_TV: dict[str, np.ndarray]
  value_T: np.ndarray


LANGUAGE = ("policy", "reference")


def logp(drawn, role, temperature):
  """Of each drawn token."""
  z_TV = drawn.logits_TV[role][: len(drawn.ids)] / temperature
  z_TV = z_TV - z_TV.max(1, keepdims=True)
  own_T = z_TV[np.arange(len(drawn.ids)), drawn.ids]
  return own_T - np.log(np.exp(z_TV).sum(1))


def whitened(x_BT, mask_BT, shift, wrong):
  seen = x_BT.ravel() if wrong == "d12 padding counts" else x_BT[mask_BT]
  ddof = 0 if wrong == "d15 variance over n" else 1
  out_BT = (x_BT - seen.mean()) / np.sqrt(seen.var(ddof=ddof) + 1e-8)
  return out_BT if shift else out_BT + seen.mean()


def by_hand(drawn, beta, wrong=""):
  """(advantages, returns), [B, N]; of each completion from its first token.

  Args:
    drawn: completions of at most N tokens.
    beta: of this update.
    wrong: a mistake to make, one of MISTAKES.
  """
  if wrong == "m3 each minibatch by itself":
    parts = [by_hand(drawn[i : i + 8], beta) for i in (0, 8)]
    return tuple(map(np.concatenate, zip(*parts, strict=True)))
  reward_BT, value_BT = np.zeros((2, len(drawn), N))
  mask_BT, paid_BT = np.zeros((2, len(drawn), N), bool)
  for b, d in enumerate(drawn):
    n, ended = len(d.ids), d.ids[-1] in drawing.STOPS
    text = ByteTokenizer().decode([i for i in d.ids if i not in drawing.STOPS])
    score = sum(map(ord, text)) % 17 / 7 - 1
    if wrong == "m1 whole rewards":
      score = int(score)
    if wrong == "d9 replaced" and not ended:
      score = -1
    elif wrong != "d9 as it is" and not ended:
      score -= 1
    T = 1.0 if wrong == "m3 scored at temperature 1" else TEMPERATURE
    Tr = 1.0 if wrong == "d3 reference at temperature 1" else T
    k1_T = logp(d, "policy", T) - logp(d, "reference", Tr)
    if wrong == "m4 an end that is padding" and ended and n > 1:
      n, k1_T = n - 1, k1_T[:-1]
    sign = 1 if wrong == "d10 plus beta" else -1
    m = n if wrong == "d11 paid with the last" else min(n + 1, N)
    mask_BT[b, :n] = paid_BT[b, :m] = True
    reward_BT[b, :n] = sign * beta * k1_T
    reward_BT[b, m - 1] += score
    shift = 1 if wrong == "d4 values after their tokens" else 0
    v_T = np.append(d.value_T, [0] * N)[shift:][:N]
    value_BT[b] = np.where(paid_BT[b], v_T, 0)
    if wrong == "d12 no value after the last" and m > n:
      value_BT[b, n] = 0
  mean_kept = wrong != "d15 rewards of mean 0"
  reward_BT = whitened(reward_BT, paid_BT, not mean_kept, wrong)
  if wrong != "m8 padding is rewarded":
    reward_BT = np.where(paid_BT, reward_BT, 0)
  a_BT = np.zeros_like(reward_BT)
  for b, d in enumerate(drawn):
    later_v = later_a = 0.0
    if wrong == "d16 a value beyond the end" and not paid_BT[b, -1]:
      later_v = d.value_T[paid_BT[b].sum()]
    for t in reversed(range(N)):
      if paid_BT[b, t] or wrong == "m8 padding is rewarded":
        delta = reward_BT[b, t] + GAMMA * later_v - value_BT[b, t]
        later_a = delta + GAMMA * LAM * later_a
        a_BT[b, t], later_v = later_a, value_BT[b, t]
  white_BT = whitened(a_BT, mask_BT, wrong != "d15 advantages keep theirs", "")
  of_BT = white_BT if wrong == "d16 returns of whitened" else a_BT
  return_BT = np.where(paid_BT, of_BT + value_BT, 0)
  return np.where(mask_BT, white_BT, 0), return_BT


def test_every_update_begins_at_the_policy_that_drew(seen):
  """d27, d23 and m3: and clips from the second minibatch on."""
  numbers = seen[3]
  for i, of_step in enumerate(numbers):
    begins = i % 4 == 0
    assert (abs(of_step["ratio"] - 1) < 1e-12) == begins
    assert (of_step["kl_old"] < 1e-20) == begins
    assert (of_step["clipped"] == 0) == begins
    assert (of_step["value_clipped"] == 0) == begins
    assert of_step["mismatch"] < 1e-9
  assert numbers[0]["kl"] == 0 < numbers[4]["kl"]


def drawn_as(batch):
  """A name for each row of a batch: its prompt and its completion."""
  ids_BT = np.append(batch["tokens_BT"], batch["target_BT"], 1)
  real_BT = np.append(batch["segment_BT"] > 0, batch["mask_BT"], 1)
  return [
    tuple(ids[real].tolist()) for ids, real in zip(ids_BT, real_BT, strict=True)
  ]


def test_what_was_known_when_it_was_drawn_stays(seen):
  """m3: the mutant makes it anew in each step."""
  batches = seen[2]
  for update in (batches[:4], batches[4:]):
    first = [{}, {}]
    for epoch in (0, 1):
      for batch in update[2 * epoch : 2 * epoch + 2]:
        for i, name in enumerate(drawn_as(batch)):
          first[epoch][name] = {
            k: from_first(batch, f"{k}_BT")[i].tobytes()
            for k in ("old_logp", "old_value", "advantage", "return")
          }
    assert first[0] == first[1] and len(first[0]) == 16


def orders(batches):
  """Of rows in each epoch, as places in the first."""
  epochs = [
    drawn_as(a) + drawn_as(b)
    for a, b in zip(batches[::2], batches[1::2], strict=True)
  ]
  return [
    [epochs[i // 2 * 2].index(row) for row in e] for i, e in enumerate(epochs)
  ]


MISTAKES = (
  *("m1 whole rewards", "m3 scored at temperature 1"),
  *("m3 each minibatch by itself", "m4 an end that is padding"),
  *("m8 padding is rewarded", "d3 reference at temperature 1"),
  *("d4 values after their tokens", "d9 replaced", "d9 as it is"),
  *("d10 plus beta", "d11 paid with the last", "d12 padding counts"),
  *("d12 no value after the last", "d15 variance over n"),
  *("d15 rewards of mean 0", "d15 advantages keep theirs"),
  *("d16 a value beyond the end", "d16 returns of whitened"),
)


def differences(update, beta, wrong=""):
  """How far what was served is from what is worked out by hand."""
  rows, drawn = update
  found = by_hand(drawn, beta, wrong)
  most = 0.0
  for name, want_BT in zip(("advantage", "return"), found, strict=True):
    got_BT = from_first(rows, f"{name}_BT")
    assert np.count_nonzero(got_BT) == np.count_nonzero(rows[f"{name}_BT"])
    most = max(most, np.abs(got_BT - want_BT).max())
  return most


def test_each_epoch_reads_all_in_an_order_of_its_own(seen):
  """d20; its mutant is below."""
  found = orders(seen[2])
  assert all(sorted(order) == list(range(16)) for order in found)
  assert found[1] != found[0] != found[3] != found[1]


def test_beta_is_moved_by_the_kl_of_whole_completions(seen):
  """d14; mutants: the mean of tokens; minibatches for episodes."""
  _, _, batches, _, moves = seen
  rows = joined(batches[4:6])
  moved_BT = (rows["old_logp_BT"] - rows["ref_logp_BT"]) * rows["mask_BT"]
  first, second = moves
  beta, kl, episodes, after = second
  assert first[:3] == (BETA, 0, 16) and beta == first[-1]
  assert kl == pytest.approx(moved_BT.sum(1).mean(), abs=1e-12)
  error = min(max(kl / TARGET - 1, -0.2), 0.2)
  assert after == pytest.approx(beta * (1 + error * episodes / 100), rel=1e-12)
  for mutant in (moved_BT[rows["mask_BT"]].mean(), moved_BT[:8].sum(1).mean()):
    assert abs(mutant - kl) > 1e-2


def test_what_is_served_is_what_is_worked_out_by_hand(seen, update):
  beta, rows = seen[-1][0][-1], update[0]
  assert 0 < rows["ended_B"].sum() < len(rows["ended_B"])
  assert rows["kl_B"].any()
  assert differences(update, beta) < 1e-9


@pytest.mark.parametrize("wrong", MISTAKES)
def test_a_mistake_is_seen(seen, update, wrong):
  assert differences(update, seen[-1][0][-1], wrong) > 1e-3


@pytest.fixture(scope="module")
def asked_again(tmp_path_factory):
  """Two updates of one prompt and one policy; and those of two mutants."""
  home, prompts = tmp_path_factory.mktemp("again"), reinforcing.prompts

  def one(*given):
    found = prompts(*given)
    return [max(found, key=lambda p: len(p.ids))] * len(found)

  its = settings(home)
  filters = Sampler(temperature=TEMPERATURE, top_k=60, top_p=0.9)
  drawn = dataclasses.replace(its.rollouts, sampler=filters)
  its = dataclasses.replace(its, rollouts=drawn)
  with (
    mock.patch.object(reinforcing, "prompts", one),
    drawing.begun(home, its) as (its, run),
  ):
    next_ = lambda count: [
      jax.device_get(run.source.next(run.state)) for _ in range(count)
    ]
    found = {"": next_(8)}
    with mock.patch.object(keys, "stream", lambda key, *_: key):
      found["m2 one key for all rollouts"] = next_(8)
    make = np.random.default_rng
    with mock.patch.object(np.random, "default_rng", lambda *_: make(0)):
      found["m2 one order for all epochs"] = next_(8)
    # The temperature of the update's own pass, and of a mutant's.
    ratios = []
    for temperature in (TEMPERATURE, 1.0):
      model = model_lib.of_shape(shape(its))
      forward = state_plan.forward(model, temperature)
      batch = its.objective.weigh(found[""][0])
      loss = jax.jit(lambda r, b, f=forward: its.objective.loss(f, r, b, None))
      _, metrics = loss(run.state.roles, batch)
      ratios.append(float(metrics["ratio"].compute()))
  return found, ratios


def completions(batches):
  return sorted(
    tuple(ids[mask].tolist())
    for batch in batches
    for ids, mask in zip(batch["target_BT"], batch["mask_BT"], strict=True)
  )


def test_rollouts_differ_between_rows_and_updates(asked_again):
  """m2: of one prompt, drawn by one policy."""
  found, _ = asked_again
  first, second = (completions(found[""][i : i + 2]) for i in (0, 4))
  assert len(set(first)) > 12
  assert first != second
  mutant = found["m2 one key for all rollouts"]
  assert completions(mutant[:2]) == completions(mutant[4:6])


def test_one_order_for_all_epochs_would_be_seen(asked_again):
  """m2 and d20."""
  found, _ = asked_again
  mutant = orders(found["m2 one order for all epochs"])
  assert mutant[1] == mutant[0] == mutant[3]
  found = orders(found[""])
  assert found[1] != found[0] != found[3] != found[1]


def test_filters_are_no_mismatch(asked_again):
  """The mutant looks at both sides, and filters make tokens likelier."""
  for batch in asked_again[0][""]:
    assert 0 <= batch["told_mismatch_B"].max() < 1e-9
    moved_BT = batch["old_logp_BT"] - batch["sampled_logp_BT"]
    assert np.abs(moved_BT[batch["mask_BT"]]).max() > 0.1


def test_the_updates_own_pass_has_the_samplers_temperature(asked_again):
  """d3; the mutant: at temperature 1 the first ratio is not 1."""
  _, (ratio, mutant) = asked_again
  assert ratio == pytest.approx(1, abs=1e-12)
  assert abs(mutant - 1) > 1e-2
