"""Every method, every objective, and a run of a few steps in float64."""

import dataclasses
import functools
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from llm_jax import model as model_lib
from llm_jax import state_plan, trees, weights
from llm_jax.experiment import Experiment
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.dpo import DPO
from llm_jax.peft.bottlenecks import Bottlenecks
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.prompts import Prefix, Prompt
from llm_jax.peft.select import BitFit, Select
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.training.optimizers import AdamW
from tests import small

# Some of the maps, each kind among them: less to compile than all.
SOME = ("attention/query", "attention/out", "mlp/down")
# Name -> (method, how what is frozen is held).
METHODS = {
  "lora": (LoRA(rank=2), "same"),
  "stabilised": (LoRA(rank=2, stabilised=True), "same"),
  "dora": (LoRA(rank=2, dora=True, targets=SOME), "same"),
  "dropout": (LoRA(rank=2, dropout=0.5, targets=SOME), "same"),
  "bfloat16": (LoRA(rank=2, targets=SOME), "bfloat16"),
  "int8": (LoRA(rank=2, targets=SOME), "int8"),
  "nf4": (LoRA(rank=2, targets=("mlp/*",)), "nf4"),
  "ia3": (IA3(), "same"),
  "houlsby": (Bottlenecks(width=4), "same"),
  "pfeiffer": (Bottlenecks(placement="pfeiffer", width=4), "int8"),
  "prompt_text": (Prompt(tokens=3, text="ab"), "same"),
  "prompt_vocabulary": (Prompt(tokens=3, init="vocabulary"), "same"),
  "prompt_random": (Prompt(tokens=3, init="random"), "same"),
  "prefix": (Prefix(tokens=3), "same"),
  "bitfit": (BitFit(), "same"),
  "bitfit_of_biases": (BitFit(special_tokens=2), "same"),
  "norms": (Select(patterns=("*norm*",)), "int8"),
  "last_layer": (Select(patterns=("blocks/*",), last=1), "same"),
  "special": (LoRA(rank=2, targets=("mlp/up",), special_tokens=3), "same"),
  "special_untied": (IA3(special_tokens=3), "same"),
  "path": (Select(patterns=("*/mlp/up/*", "embedding")), "same"),
  "lstm": (LoRA(rank=2, dora=True), "same"),
  "gru": (LoRA(rank=2, dropout=0.5), "nf4"),
  "gru_ia3": (IA3(outputs=("*",), inputs=("recurrent",)), "same"),
  "prompt_lstm": (Prompt(tokens=3, init="random"), "same"),
}
# What an objective needs to join the matrix: one line.
OBJECTIVES = {
  "causal": (Causal(z_loss=1e-2), small.causal_batch()),
  "dpo": (DPO(beta=0.5), small.causal_batch()),
}
# With a reference: one method of each way to hold what it does not share.
REFERENCED = ("lora", "int8", "prompt_text", "last_layer")
MATRIX = [
  (name, objective)
  for objective in OBJECTIVES
  for name in (METHODS if objective == "causal" else REFERENCED)
]
MESHES = {"1": (1, 1, 1), "8": (2, 2, 2)}
SHAPES = {
  "bitfit_of_biases": small.SHAPES["gpt2"],
  "special_untied": small.SHAPES["qwen3"],
  **{
    name: small.RECURRENT["gru" if "gru" in name else "lstm"]
    for name in METHODS
    if "gru" in name or "lstm" in name
  },
}
SEED = 3


class Made(NamedTuple):
  """A method on a mesh, before its first step."""

  experiment: Experiment
  mesh: Any
  model: model_lib.Model
  plan: state_plan.Plan
  batch: Any
  score: Any  # (variables, **change of shape) -> logp_BT, on the host


def encode(text):
  return [ord(c) % small.DIMS.V for c in text]


@functools.cache
def scorer(shape):
  """(variables, batch) -> logp_BT; one for all methods, for their one base."""
  score = model_lib.of_shape(shape).score
  return jax.jit(lambda variables, batch: score(variables, batch).logp_BT)


# Kept for a while: eight devices are compared with what one was compiled for.
@functools.lru_cache(maxsize=4)
def make(name, objective="causal", mesh="1", **shape):
  """Plan and furniture; only in float64."""
  method, frozen = METHODS[name]
  loss, batch = OBJECTIVES[objective]
  config = dataclasses.replace(
    SHAPES.get(name, small.CONFIG), dtype="float64", **shape
  )
  experiment = Experiment(
    model=config,
    objective=loss,
    tokenizer=Bytes(),
    optimizer=AdamW(peak=1e-2),
    peft=method,
    frozen=frozen,
    mesh=mesh_lib.MeshShape(*MESHES[mesh]),
    batch_size=small.DIMS.B,
    steps=10,
    seed=SEED,
  )
  devices = mesh_lib.make(experiment.mesh)
  model = model_lib.of_shape(config)
  with jax.set_mesh(devices):
    plan = state_plan.make(
      experiment, model, devices, encode, reference=loss.needs_reference
    )
    placed = mesh_lib.place(batch, devices)

  def score(variables, **change):
    its = scorer(dataclasses.replace(config, **change))
    return np.asarray(its(variables, placed))

  return Made(experiment, devices, model, plan, placed, score)


def base(experiment, plan, mesh):
  """Drawn by numpy, which compiles nothing: in the place of `init_from`."""
  _, variables = small.build(experiment.model)
  return jax.tree.map(
    lambda x, like: jax.device_put(np.asarray(x), like.sharding),
    variables["params"],
    plan.base,
  )


def start(made):
  with jax.set_mesh(made.mesh), mock.patch.object(weights, "_base", base):
    return weights.start(made.experiment, made.plan, made.mesh)


def resume(made, store):
  with jax.set_mesh(made.mesh), mock.patch.object(weights, "_base", base):
    return weights.resume(made.experiment, made.plan, made.mesh, store)


def train(made, state, steps):
  """The state after some steps; uses up the one given."""
  with jax.set_mesh(made.mesh):
    for _ in range(steps):
      state, _ = made.plan.step(state, made.batch)
  return state


def numbers(tree):
  """Path -> array on the host, of every leaf."""
  return {path: np.asarray(x) for path, x in trees.paths(tree)}


def drawn(adapters, seed=0):
  """Adapters moved at random, as training might; constants stay."""
  r = np.random.default_rng(seed)

  def one(path, x):
    name = trees.path_string(path).split("/")[-1]
    if name in ("scale", "dropout"):
      return x
    new = np.asarray(x) + 0.3 * r.normal(size=x.shape)
    return jax.device_put(new, x.sharding)

  return jax.tree_util.tree_map_with_path(one, adapters)


@functools.cache
def trained_on_one_device(name, objective):
  """What two steps leave on one device: what every mesh must leave."""
  made = make(name, objective, "1")
  return numbers(train(made, start(made), 2).trainable)
