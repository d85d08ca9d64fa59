"""Losses, gradients and metrics of TRL's own trainers, in float64.

The model is a table: the logits after token x at position t are W[x] + P[t].
Each trainer's method runs as released, on an object that has the attributes
which it reads and nothing else. Needs torch and trl 1.16.0; run by hand, the
arrays are kept beside it:

  python tests/goldens/make_pairwise.py
"""

from collections import defaultdict
import pathlib
from types import SimpleNamespace

import numpy as np
import torch
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer

V, S = 5, 8  # vocabulary; tokens of a row
PROMPT = [2, 3, 1, 4]  # tokens of each pair's prompt
CHOSEN = [3, 1, 6, 4]  # tokens of its completions: ragged, and one of one token
REJECTED = [5, 4, 2, 3]
BETAS = (0.1, 0.7)

# Those that TRL runs with an f-divergence too.
MARGIN = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust")
DPO = {kind: {} for kind in MARGIN + ("discopop", "nca_pair", "bco_pair")} | {
  "sppo_hard": {},
  "aot": {"label_smoothing": 0.1},
  "aot_unpaired": {"label_smoothing": 0.1},
  "apo_zero": {},
  "apo_down": {},
}
DPO["exo_pair"] = DPO["robust"] = {"label_smoothing": 0.1}
CPO = {
  "sigmoid": {"label_smoothing": 0.1, "cpo_alpha": 0.6},
  "simpo": {"label_smoothing": 0.0, "cpo_alpha": 0.0, "simpo_gamma": 0.4},
}


def accelerator():
  same = lambda x: x
  return SimpleNamespace(
    device="cpu", gather=same, gather_for_metrics=same, unwrap_model=same
  )


class Table:
  """The model, and what TRL's fused head says of it."""

  training = True

  def __init__(self, w, p):
    self.w, self.p = w, p

  def __call__(self, input_ids=None, attention_mask=None, labels=None, **_):
    logits = self.w[input_ids] + self.p[: input_ids.shape[1]]
    if labels is None:
      return SimpleNamespace(logits=logits)
    target = labels[:, 1:]
    logp = logits[:, :-1].log_softmax(-1)
    picked = logp.gather(-1, target.clamp(min=0)[..., None])[..., 0]
    nothing = torch.zeros_like(picked)
    return SimpleNamespace(
      log_probs=picked * (target != -100),
      entropy=nothing,
      mean_logits=nothing,
      is_top1=nothing.bool(),
    )


def trainer(kind, **attributes):
  """A trainer that was never set up."""
  self = object.__new__(kind)
  defaults = {
    "accelerator": accelerator(),
    "model": SimpleNamespace(training=True),
    "aux_loss_enabled": False,
    "_metrics": defaultdict(lambda: defaultdict(list)),
    "_total_train_tokens": 0,
    "_tp_size": 1,
  }
  self.__dict__.update(defaults | attributes)
  return self


def rows(r, completions):
  """ids, attention and completion masks of rows; prompts are shared."""
  ids = np.zeros((len(PROMPT), S), int)
  there, mine = np.zeros_like(ids), np.zeros_like(ids)
  for i, (n, m) in enumerate(zip(PROMPT, completions, strict=True)):
    ids[i, :n] = np.random.default_rng(i).integers(0, V, n)
    ids[i, n : n + m] = r.integers(0, V, m)
    there[i, : n + m] = 1
    mine[i, n : n + m] = 1
  return ids, there, mine


def logps(model, ids, mine):
  labels = ids.masked_fill(mine == 0, -100)
  with torch.no_grad():
    return model(input_ids=ids, labels=labels).log_probs.sum(-1)


def main():
  """Writes pairwise.npz."""
  # ORPO rounds log-probabilities to float32, EXO its smoothing; a float64
  # reference must not.
  torch.Tensor.float = torch.Tensor.double
  torch.set_default_dtype(torch.float64)
  r = np.random.default_rng(0)
  weights = {n: r.normal(size=s) for n, s in {"w": (V, V), "p": (S, V)}.items()}
  reference = {n: x + 0.7 * r.normal(size=x.shape) for n, x in weights.items()}
  chosen, rejected = rows(r, CHOSEN), rows(r, REJECTED)
  both = [np.stack([c, j], 1) for c, j in zip(chosen, rejected, strict=True)]
  names = ("ids_BS", "there_BS", "completion_BS")
  out = {n: x.reshape(-1, S) for n, x in zip(names, both, strict=True)}
  out |= {f"policy/{n}": x for n, x in weights.items()}
  out |= {f"reference/{n}": x for n, x in reference.items()}

  ids, there, mine = (
    torch.tensor(np.concatenate([c, j]))
    for c, j in zip(chosen, rejected, strict=True)
  )
  ref = Table(*(torch.tensor(x) for x in reference.values()))

  def note(name, run, metrics):
    """Loss, gradients and metrics of one setting."""
    w, p = (torch.tensor(x, requires_grad=True) for x in weights.values())
    loss = run(Table(w, p))
    loss.backward()
    out[f"{name}/loss"] = loss.detach()
    out[f"{name}/gradient/w"], out[f"{name}/gradient/p"] = w.grad, p.grad
    out.update({f"{name}/{k}": v for k, v in metrics().items()})

  def dpo(name, loss_types, beta, divergence="reverse_kl", weigh=None, **kw):
    self = trainer(
      DPOTrainer,
      ld_alpha=None,
      precompute_ref_logps=True,
      f_divergence_type=divergence,
      loss_types=loss_types,
      loss_weights=weigh or [1.0] * len(loss_types),
      beta=beta,
      label_smoothing=kw.get("label_smoothing", 0.0),
      args=SimpleNamespace(discopop_tau=0.05),
      use_weighting=False,
    )
    c, j = logps(ref, ids, mine).chunk(2)
    inputs = {
      "input_ids": ids,
      "attention_mask": there,
      "completion_mask": mine,
      "ref_chosen_logps": c,
      "ref_rejected_logps": j,
    }
    of = lambda k: self._metrics["train"][f"rewards/{k}"][-1]
    note(
      name,
      lambda model: DPOTrainer._compute_loss(self, model, inputs, False),
      lambda: {
        "accuracy": of("accuracies"),
        "margin": of("margins"),
        "reward_chosen": of("chosen"),
        "reward_rejected": of("rejected"),
      },
    )

  def preference(kind, name, method, **attributes):
    """CPO and ORPO, which make their own log-probabilities."""
    self = trainer(
      kind,
      is_encoder_decoder=False,
      padding_value=0,
      pad_token_id=0,
      **attributes,
    )
    batch = {}
    for side, (i, t, m) in {"chosen": chosen, "rejected": rejected}.items():
      i, t, m = map(torch.tensor, (i, t, m))
      batch[f"{side}_input_ids"] = i
      batch[f"{side}_attention_mask"] = t
      batch[f"{side}_labels"] = i.masked_fill(m == 0, -100)
    said = {}

    def run(model):
      loss, metrics = method(self, model, batch)
      said.update(metrics)
      return loss

    of = lambda k: float(said[f"rewards/{k}"])
    note(
      name,
      run,
      lambda: {
        "accuracy": of("accuracies"),
        "margin": of("margins"),
        "reward_chosen": of("chosen"),
        "reward_rejected": of("rejected"),
        "nll": float(said["nll_loss"]),
      },
    )

  for beta in BETAS:
    for kind, kw in DPO.items():
      dpo(f"{kind}/{beta}", [kind], beta, **kw)
    for kind in MARGIN + ("discopop",):
      for divergence in ("forward_kl", "js_divergence"):
        kw = DPO[kind]
        dpo(f"{kind}/{divergence}/{beta}", [kind], beta, divergence, **kw)
    dpo(f"sigmoid+sft/{beta}", ["sigmoid", "sft"], beta, weigh=[0.8, 0.3])
    for kind, kw in CPO.items():
      preference(
        CPOTrainer,
        f"cpo_{kind}/{beta}",
        CPOTrainer.get_batch_loss_metrics,
        beta=beta,
        alpha=0.0,
        loss_type=kind,
        **kw,
      )
    preference(
      ORPOTrainer,
      f"orpo/{beta}",
      ORPOTrainer.get_batch_loss_metrics,
      beta=beta,
    )

  # KTO: all rows, each liked or not; the mismatched rows have the completion
  # of the row before.
  kl = [x.clone() for x in (ids, there, mine)]
  for i in range(len(ids)):
    prompt = ids[i, : PROMPT[i % len(PROMPT)]]
    end = mine[i - 1].bool()
    n, m = len(prompt), min(int(end.sum()), S - len(prompt))
    for x in kl:
      x[i] = 0
    kl[0][i, :n] = prompt
    kl[0][i, n : n + m] = ids[i - 1][end][:m]
    kl[1][i, : n + m] = 1
    kl[2][i, n : n + m] = 1
  out |= {f"kto/{n}": x for n, x in zip(names, (ids, there, mine), strict=True)}
  out |= {f"kto/kl_{n}": x for n, x in zip(names, kl, strict=True)}
  labels = {
    "mixed": [1, 0, 0, 1, 1, 1, 0, 1],
    "all_good": [1] * 8,
    "all_bad": [0] * 8,
  }
  # With either one as the reference, so that the baseline is once clamped.
  turned = {"kto": (weights, reference), "kto_turned": (reference, weights)}
  for turn, (one, other) in turned.items():
    for which, label in labels.items():
      for beta in BETAS:
        name = f"{turn}/{which}/{beta}"
        kto(out, name, one, other, (ids, there, mine), kl, label, beta)

  for margin in (False, True):
    for center in (None, 0.05):
      scores = torch.tensor(r.normal(size=8), requires_grad=True)
      name = f"reward/margin={margin}/center={center}"
      inputs = {"attention_mask": torch.ones(8, 1)}
      if margin:
        inputs["margin"] = torch.tensor([0.5, 0.0, 1.5, 0.3]).double()
      self = trainer(
        RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=center)
      )
      model = lambda scores=scores, **_: SimpleNamespace(logits=scores[:, None])
      loss = RewardTrainer.compute_loss(self, model, dict(inputs))
      loss.backward()
      by_pair = lambda x: x.reshape(2, -1).T.reshape(-1)
      out[f"{name}/score_B"] = by_pair(scores.detach())
      out[f"{name}/loss"] = loss.detach()
      out[f"{name}/gradient"] = by_pair(scores.grad)
      for k in ("accuracy", "margin"):
        out[f"{name}/{k}"] = self._metrics["train"][k][-1]
  arrays = {k: np.asarray(v) for k, v in out.items()}
  np.savez_compressed(
    pathlib.Path(__file__).with_name("pairwise.npz"), **arrays
  )


def kto(out, name, policy, reference, batch, kl, label, beta):
  """One setting of KTO; class weights 1.0 and 1.3."""
  w, p = (torch.tensor(x, requires_grad=True) for x in policy.values())
  ref = Table(*(torch.tensor(x) for x in reference.values()))
  inputs = {
    "input_ids": batch[0],
    "attention_mask": batch[1],
    "completion_mask": batch[2],
    "KL_input_ids": kl[0],
    "KL_attention_mask": kl[1],
    "KL_completion_mask": kl[2],
    "label": torch.tensor(label),
    "ref_logps": logps(ref, batch[0], batch[2]),
    "ref_KL_logps": logps(ref, kl[0], kl[2]),
  }
  self = trainer(
    KTOTrainer,
    calculate_KL=True,
    precompute_ref_logps=True,
    loss_type="kto",
    beta=beta,
    desirable_weight=1.0,
    undesirable_weight=1.3,
  )
  loss = KTOTrainer._compute_loss(self, Table(w, p), inputs, False)
  loss.backward()
  said = self._metrics["train"]
  out[f"{name}/loss"] = loss.detach()
  out[f"{name}/gradient/w"], out[f"{name}/gradient/p"] = w.grad, p.grad
  out[f"{name}/label_B"] = label
  out[f"{name}/baseline"] = said["kl"][-1]
  for side in ("chosen", "rejected"):
    if said[f"rewards/{side}"]:
      out[f"{name}/reward_{side}"] = said[f"rewards/{side}"][-1]


if __name__ == "__main__":
  main()
