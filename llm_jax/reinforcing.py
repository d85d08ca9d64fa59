"""What an experiment draws from its policy to learn from it: the wiring."""

import json
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from llm_jax import (
  asking,
  importing,
  judging,
  keys,
  scoring,
  state_plan,
  weights,
)
from llm_jax.contracts import Batch, Evaluator, Tokenizer
from llm_jax.data.instructions import Instructed
from llm_jax.data.preferred import Preferred
from llm_jax.experiment import Experiment
from llm_jax.generation import rollouts
from llm_jax.model import Model
from llm_jax.objectives.drawn_pairs import DrawnPairs
from llm_jax.objectives.policy import Policy
from llm_jax.on_policy import Functions, OnPolicy, Reward
from llm_jax.prompt_order import Prompt
from llm_jax.reporting.progress import say
from llm_jax.tokenizers import store as tokenizers

_TOLD = ("judged", "score", "kl", "length", "ended")


def source(
  experiment: Experiment,
  tokens: Instructed | Preferred,
  tokenizer: Tokenizer,
  model: Model,
  mesh: Mesh,
  folder: pathlib.Path,
) -> OnPolicy:
  """Minibatches of what the policy draws, as `experiment.judge` scores it.

  Args:
    experiment: whose objective is a `Policy`, or of pairs.
    tokens: whose prompts are answered.
    tokenizer: ids <-> text.
    model: the decoder of every role.
    mesh: where.
    folder: of the run.

  Raises:
    ValueError: no prompt is short enough.
  """
  objective: Policy | DrawnPairs = DrawnPairs(experiment.group)
  if not experiment.draws_pairs:
    assert isinstance(experiment.objective, Policy)
    objective = experiment.objective
  judge, about = judging.make(experiment, folder, None, mesh)
  judging.check_room(experiment, tokenizer)
  stop = asking.stop_ids(experiment.data, tokenizer)
  text = asking.texter(experiment.data, tokenizer)

  return OnPolicy(
    experiment.rollouts,
    experiment.shaping,
    objective,
    prompts(experiment, tokens),
    functions(experiment, model, stop),
    Reward(text, scoring.asker(judge, experiment.judge)),
    (tokenizer.start_id, tokenizer.pad_id),
    experiment.seed,
    experiment.batch_size,
    experiment.group,
    mesh,
    tokens.identity,
    json.loads(json.dumps(about)),
    experiment.judge_may_change,
    experiment.microbatches,
  )


def validator(
  experiment: Experiment, tokens: Instructed | Preferred, source: OnPolicy
) -> Evaluator:
  """Roles -> how held-out prompts are answered: score, KL, length.

  The same prompts and draws each time. The "loss" is the score, negated.
  """
  held_out = prompts(experiment, tokens, "validation")
  size = experiment.rollouts.batch
  most = experiment.validation.batches or len(held_out)
  count = min(most, max(1, len(held_out) // size))
  key = keys.stream(jax.random.key(experiment.seed), "validation")

  def validate(roles: Any) -> dict[str, float]:
    found = []
    for i in range(count):
      # The first ones once more where there are too few.
      asked = [
        held_out[n % len(held_out)] for n in range(i * size, (i + 1) * size)
      ]
      rows = source.draw(roles, asked, jax.random.fold_in(key, i))
      found.append(
        {n: float(rows[f"{n}_B"].mean()) for n in _TOLD if f"{n}_B" in rows}
      )
    means = {n: sum(f[n] for f in found) / count for n in found[0]}
    return {"loss": -means["score"], **means}

  return validate


def check_critic(experiment: Experiment, tokenizer: Tokenizer) -> None:
  """ValueError where the model that a critic begins as reads other tokens."""
  if experiment.value_from is None:
    return
  given = experiment.value_from
  if importing.is_folder(given):
    theirs = importing.tokenizer(given, "value_from").fingerprint
  else:
    folder = weights.origin(given, "value_from")
    theirs = tokenizers.load(folder / "tokenizer").fingerprint
  if theirs != tokenizer.fingerprint:
    raise ValueError(
      f"--value_from={given}: its tokenizer is not that of the policy"
    )


def prompts(
  experiment: Experiment, tokens: Instructed | Preferred, split: str = "train"
) -> list[Prompt]:
  """Each prompt of a split once, if it is short enough."""
  most = experiment.rollouts.max_prompt
  found: dict[Any, Prompt] = {}
  long = 0
  for e in tokens.examples(split):
    messages = e.conversation.question.messages
    if 1 + len(e.prompt_ids) > most:
      long += 1
    elif messages not in found:
      found[messages] = Prompt(messages, list(e.prompt_ids), e.reference)
  said = (
    f"--rollouts.max_prompt={most}: {long} prompts of the {split} split are"
    " longer"
  )
  if not found:
    raise ValueError(f"{said}, and there are no others")
  if long:
    say(f"{said}; they are left out")
  return list(found.values())


def functions(
  experiment: Experiment, model: Model, stop_ids: tuple[int, ...]
) -> Functions:
  """How the policy draws, and what all roles say of what was drawn."""
  settings, objective = experiment.rollouts, experiment.objective
  score_of = state_plan.forward(model, experiment.scored_at)
  completions = experiment.group

  def draw(roles: Any, batch: Batch, key: jax.Array) -> Batch:
    rows, width = batch["prompt_BP"].shape
    variables = model.ready(roles["policy"])
    return rollouts.draw(
      model.decode,
      variables,
      batch["prompt_BP"],
      batch["length_B"],
      model.open_cache(variables, rows // completions, width),
      key,
      limit=settings.max_new_tokens,
      sampler=settings.sampler,
      stop_ids=stop_ids,
      completions=completions,
      repeat=model.repeat,
      grow=model.grow,
    )

  def score(roles: Any, batch: Batch) -> Batch:
    batch = {**batch, "asked_BT": batch["mask_BT"]}
    policy = score_of["policy"](roles["policy"], batch)
    out = {"old_logp_BT": policy.logp_BT}
    critic = policy
    if objective.needs_critic:
      critic = score_of["value"](roles["value"], batch)
    if critic.output_BTO is not None:
      out["old_value_BT"] = critic.output_BTO[..., 0]
    if objective.needs_reference:
      reference = score_of["reference"](roles["reference"], batch)
      out["ref_logp_BT"] = reference.logp_BT
    return out

  return Functions(jax.jit(draw), jax.jit(score))
