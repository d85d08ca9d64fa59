"""Rewards, advantages, returns, losses and gradients of TRL's two PPOs.

`PPOTrainer`'s methods run as released, on an object that has what they read.
`PPOv2Trainer` has no methods: the lines of its `train` run as released, between
two of its comments. Its predecessor's whitened rewards are not masked again
(they leak padding into the advantages); here they are.

The model is a table: the logits after token x at position t are W[x] + P[t],
the value of a place is the first of them. Needs torch and trl 0.11.4; run by
hand, the arrays are kept beside it:

  python tests/goldens/make_ppo.py
"""

import inspect
import pathlib
import textwrap
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from trl.core import masked_mean, masked_whiten
from trl.trainer import ppo_trainer, ppov2_trainer

V, START, L = 5, 2, 6  # vocabulary; tokens of a prompt; of a response, at most
LENGTHS = [6, 5, 3, 1, 4]  # the first never ends; the second's end is the last
BETA, GAMMA, LAM, CLIP, VALUE_CLIP, WEIGHT = 0.3, 0.95, 0.9, 0.2, 0.2, 0.1
PAD = 0


class Args(SimpleNamespace):
  kl_coef, gamma, lam = BETA, GAMMA, LAM
  cliprange, cliprange_value, vf_coef = CLIP, VALUE_CLIP, WEIGHT
  temperature, missing_eos_penalty = 1.0, None


def logits(w, p, tokens):
  return w[tokens] + p[: tokens.shape[1]]


def logp(w, p, tokens, target):
  all_ = torch.log_softmax(logits(w, p, tokens), -1)
  return all_.gather(2, target[..., None])[..., 0][:, START - 1 :]


def older(old, ref, values, scores, mask, whiten):
  """Rewards, advantages, returns of PPOTrainer: paid with the last token."""
  config = SimpleNamespace(
    kl_penalty="kl", whiten_rewards=whiten, gamma=GAMMA, lam=LAM
  )
  self = SimpleNamespace(config=config, kl_ctl=SimpleNamespace(value=BETA))
  its = ppo_trainer.PPOTrainer
  self._kl_penalty = lambda *a: its._kl_penalty(self, *a)
  rewards, _, _ = its.compute_rewards(self, scores, old, ref, mask)
  again = lambda x, m, **k: masked_whiten(x, m, **k) * m
  with mock.patch.object(ppo_trainer, "masked_whiten", again):
    _, advantages, returns = its.compute_advantages(self, values, rewards, mask)
  return rewards * mask, advantages * mask, returns * mask


def newer(old, ref, values, scores, lengths, whiten):
  """The same of PPOv2Trainer: paid one place after the last token."""
  source = inspect.getsource(ppov2_trainer.PPOv2Trainer.train).split("\n")
  at = lambda text: next(i for i, s in enumerate(source) if text in s)
  lines = source[at("# be very careful with") : at("# Do multiple epochs")]
  code = textwrap.dedent("\n".join(lines))
  seen = {
    "torch": torch,
    "masked_whiten": masked_whiten,
    "INVALID_LOGPROB": ppov2_trainer.INVALID_LOGPROB,
    "args": Args(whiten_rewards=whiten),
    "responses": torch.zeros(len(lengths), L),
    "sequence_lengths": lengths - 1,
    "logprobs": old,
    "ref_logprobs": ref,
    "values": values,
    "scores": scores,
  }
  exec(code, seen)
  return seen


def main():
  r = np.random.default_rng(0)
  t = lambda *shape: torch.tensor(r.normal(size=shape))
  B, S = len(LENGTHS), START + L
  lengths = torch.tensor(LENGTHS)
  row = torch.tensor(r.integers(1, V, (B, S)))
  mask = torch.arange(L) < lengths[:, None]
  row[:, START:][~mask] = PAD
  tokens, target = row[:, :-1], row[:, 1:]
  tables = {name: (t(V, V), t(S, V)) for name in ("old", "ref", "new")}
  # Near the old one: some ratios are clipped, others are not.
  tables["new"] = tuple(
    o + 0.3 * n for o, n in zip(tables["old"], tables["new"], strict=True)
  )
  for x in tables["new"]:
    x.requires_grad_(True)
  old, ref = (logp(*tables[n], tokens, target) for n in ("old", "ref"))
  values, scores = logits(*tables["old"], tokens)[:, START - 1 :, 0], t(B)
  out = {"row": row, "lengths": lengths, "scores": scores}
  out |= {
    f"{n}/{k}": x
    for n, v in tables.items()
    for k, x in zip("wp", v, strict=True)
  }
  out |= {"old": old * mask, "ref_logp": ref * mask, "values": values}
  for whiten in (False, True):
    name = f"last/{whiten}"
    found = older(old, ref, values, scores, mask, whiten)
    out |= dict(
      zip(
        (f"{name}/{k}" for k in ("reward", "advantage", "return")),
        found,
        strict=True,
      )
    )
    config = SimpleNamespace(
      cliprange=CLIP,
      cliprange_value=VALUE_CLIP,
      vf_coef=WEIGHT,
      ratio_threshold=10.0,
    )
    now = logits(*tables["new"], tokens)[:, START - 1 :]
    policy, value, _ = ppo_trainer.PPOTrainer.loss(
      SimpleNamespace(config=config),
      old,
      values,
      now,
      now[..., 0],
      logp(*tables["new"], tokens, target),
      mask,
      found[1],
      found[2],
    )
    keep(out, name, policy, value, tables["new"])

    name = f"after/{whiten}"
    seen = newer(old, ref, values.clone(), scores, lengths, whiten)
    upto = ~seen["padding_mask_p1"]
    out |= {
      f"{name}/reward": seen["rewards"] * upto,
      f"{name}/advantage": seen["advantages"],
      f"{name}/return": seen["returns"] * upto,
    }
    policy, value = losses(seen, tables["new"], tokens, target)
    keep(out, name, policy, WEIGHT * value, tables["new"])
  path = pathlib.Path(__file__).with_name("ppo.npz")
  np.savez_compressed(
    path, **{k: np.asarray(v.detach()) for k, v in out.items()}
  )


def losses(seen, table, tokens, target):
  """The lines of PPOv2Trainer on a minibatch of everything."""
  source = inspect.getsource(ppov2_trainer.PPOv2Trainer.train).split("\n")
  at = lambda text: next(i for i, s in enumerate(source) if text in s)
  lines = source[
    at("new_logprobs = torch.masked_fill(") : at("loss = pg_loss +")
  ]
  code = textwrap.dedent("\n".join(lines))
  everything = slice(None)
  space = (
    seen
    | {
      "args": Args(),
      "masked_mean": masked_mean,
      "micro_batch_inds": everything,
      "context_length": 1,  # the values below have lost their prompt already
      "new_logprobs": logp(*table, tokens, target),
      "vpred_temp": logits(*table, tokens)[:, START - 1 :, :1],
      "mb_values": seen["values"],
      "mb_return": seen["returns"],
      "mb_logprobs": seen["logprobs"],
      "mb_advantage": seen["advantages"],
    }
  )
  # It cuts the last place off, which was never an input here.
  space["vpred_temp"] = torch.nn.functional.pad(
    space["vpred_temp"], (0, 0, 0, 1)
  )
  exec(code, space)
  return space["pg_loss"], space["vf_loss"]


def keep(out, name, policy, value, table):
  """Losses and their gradients."""
  for which, x in (("policy", policy), ("value", value)):
    out[f"{name}/{which}_loss"] = x.detach()
    found = torch.autograd.grad(x, table, retain_graph=True, allow_unused=True)
    for letter, g in zip("wp", found, strict=True):
      out[f"{name}/{which}_{letter}"] = g


if __name__ == "__main__":
  torch.set_default_dtype(torch.float64)
  main()
