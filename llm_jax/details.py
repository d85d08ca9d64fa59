"""The details that PPO on language models hangs on, and where each is set.

The 27 of Huang et al., "The N implementation details of RLHF with PPO" (2023),
with the values of their recipe for TL;DR (arXiv:2403.17031). What is no setting
is always so, and a test shows it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from llm_jax import config
from llm_jax.experiment import Experiment
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.shaping import Shaping
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule


class Detail(NamedTuple):
  """One of them: settings, or what is always so and a test that shows it."""

  number: int
  name: str
  settings: tuple[str, ...] = ()
  always: str = ""
  shown_by: str = ""


DETAILS = (
  Detail(
    1,
    "layout of prompts",
    always="aligned on the right; positions from a prompt's first token;"
    " padding is no id of a text",
    shown_by="on_policy_test.py::test_prompts_stand_before_completions",
  ),
  Detail(
    2,
    "sampling",
    (
      "rollouts.sampler.temperature",
      "rollouts.sampler.top_k",
      "rollouts.sampler.top_p",
      "rollouts.sampler.min_p",
      "rollouts.max_new_tokens",
    ),
  ),
  Detail(
    3,
    "log-probabilities",
    always="of policy and reference, drawn and learned, at the temperature of"
    " sampling",
    shown_by="rl_update_test.py"
    "::test_the_updates_own_pass_has_the_samplers_temperature",
  ),
  Detail(
    4,
    "values",
    always="a token's is that of the state before it",
    shown_by="rl_agreement_test.py"
    "::test_a_value_is_that_of_the_state_before_its_token",
  ),
  Detail(5, "critic begins as", ("objective.critic", "value_from")),
  Detail(
    6,
    "head of a reward model",
    always="weights of deviation 1 / sqrt(D + 1), no bias",
    shown_by="models/outputs_test.py::test_its_size_and_its_beginning",
  ),
  Detail(
    7,
    "rewards normalised",
    ("shaping.scale", "shaping.centre", "shaping.clip"),
    always="and --rewards.normalise of the reward model's own run",
    shown_by="normalising_test.py"
    "::test_the_judge_says_mean_0_and_deviation_1_of_references",
  ),
  Detail(
    8,
    "truncation",
    always="a completion ends with its first stop token; nothing is after it",
    shown_by="on_policy_test.py::test_completions_end_where_they_end",
  ),
  Detail(9, "no end", ("shaping.missing_eos", "shaping.penalty")),
  Detail(10, "KL in the reward", ("objective.penalty",)),
  Detail(11, "score is paid", ("objective.terminal",)),
  Detail(
    12,
    "masks",
    always="what was not drawn counts nowhere",
    shown_by="objectives/ppo_test.py"
    "::test_what_stands_under_the_mask_does_not_matter",
  ),
  Detail(13, "weight of the KL", ("shaping.beta",)),
  Detail(14, "adaptive weight", ("shaping.target", "shaping.horizon")),
  Detail(
    15,
    "whitening",
    ("objective.whiten", "objective.whiten_rewards", "objective.unbiased"),
  ),
  Detail(16, "advantages", ("objective.gamma", "objective.lam")),
  Detail(
    17,
    "policy's loss",
    ("objective.clip", "objective.clip_high", "objective.dual_clip"),
    always="log-ratios are kept within 20 nats",
    shown_by="objectives/ppo_test.py"
    "::test_a_ratio_without_bounds_leaves_the_others_their_gradient",
  ),
  Detail(
    18, "critic's loss", ("objective.value_weight", "objective.value_clip")
  ),
  Detail(19, "entropy bonus", ("objective.entropy",)),
  Detail(
    20, "minibatches", ("rollouts.batch", "rollouts.epochs", "batch_size")
  ),
  Detail(
    21,
    "learning rate",
    (
      "optimizer.peak",
      "optimizer.schedule.kind",
      "optimizer.schedule.warmup",
      "optimizer.schedule.floor",
      "optimizer.schedule.every",
    ),
  ),
  Detail(
    22,
    "Adam",
    (
      "optimizer.eps",
      "optimizer.eps_to",
      "optimizer.b1",
      "optimizer.b2",
      "optimizer.weight_decay",
      "optimizer.clip",
    ),
  ),
  Detail(
    23,
    "dropout",
    always="off in all roles, drawn and learned",
    shown_by="rl_update_test.py"
    "::test_every_update_begins_at_the_policy_that_drew",
  ),
  Detail(
    24,
    "seeds",
    ("seed",),
    always="each row of each update has a key of its own from it, on every"
    " process",
    shown_by="rl_update_test.py::test_rollouts_differ_between_rows_and_updates",
  ),
  Detail(
    25,
    "reward model's run",
    always="--steps and --optimizer.schedule of that run: an epoch, the rate"
    " to 0",
  ),
  Detail(
    26,
    "metrics",
    always="docs/reinforcement_learning.md explains each",
    shown_by="details_test.py::test_each_metric_is_explained",
  ),
  Detail(
    27,
    "sanity",
    ("rollouts.target_kl", "shaping.most_kl", "shaping.patience"),
    always="an update begins at ratio 1 and kl_old 0, and mismatch tells of"
    " sampler and scorer",
    shown_by="on_policy_test.py"
    "::test_each_update_begins_where_it_was_drawn_and_clips_later",
  ),
)

# The recipe for TL;DR. Its reward model is the critic's beginning.
RECIPE = Experiment(
  objective=PPO(),
  rollouts=Rollouts(batch=512, max_new_tokens=53),
  shaping=Shaping(),
  optimizer=AdamW(
    peak=3e-6,
    schedule=Schedule("linear", warmup=0, floor=0.0, every=4),
    clip=None,
    weight_decay=0.0,
    b2=0.999,
    eps=1e-5,
  ),
  batch_size=512,
  value_from="the reward model",
)
# No recipe says what these are.
_FREE = ("seed", "rollouts.target_kl", "shaping.most_kl", "shaping.patience")


def table(experiment: Experiment) -> Iterator[tuple[str, str, str, str]]:
  """(number, name, what the recipe has, how it is here) of each detail.

  A detail of several settings has a row of each.
  """
  here, recipe = _values(experiment), _values(RECIPE)
  for detail in DETAILS:
    rows = [("always", detail.always)] if detail.always else []
    for setting in detail.settings:
      if setting not in here:
        whose = getattr(experiment, setting.partition(".")[0])
        rows.append(("", f"--{setting}: {type(whose).__name__} has none"))
        continue
      given, wanted = here[setting], recipe[setting]
      said = f"recipe: {_shown(wanted)}"
      if _same(setting, given, wanted):
        said = "as the recipe"
      rows.append(
        ("" if setting in _FREE else said, f"--{setting}={_shown(given)}")
      )
    for i, row in enumerate(rows):
      first = ("", "") if i else (f"{detail.number:2}", detail.name)
      yield (*first, *row)


def _same(setting: str, given: Any, wanted: Any) -> bool:
  if setting == "value_from":  # any reward model is one
    return (given is None) == (wanted is None)
  return given == wanted


def _values(experiment: Experiment) -> dict[str, Any]:
  return {leaf.name: leaf.value for leaf in config.leaves(experiment)}


def _shown(value: Any) -> str:
  """As a flag has it."""
  if isinstance(value, bool):
    return str(value).lower()
  return "none" if value is None else str(value)
