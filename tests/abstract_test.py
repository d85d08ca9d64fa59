"""A batch's shapes are all that a step needs to be traced."""

import importlib
import json

import jax
import pytest

from llm_jax import abstract, state_plan
from llm_jax import model as model_lib
from llm_jax.data.arrays import Arrays
from llm_jax.data.denoisers import Masked, Plain, PrefixLM, Spans
from llm_jax.data.example_sources import ExampleFiles
from llm_jax.data.examples import Examples
from llm_jax.data.files import Files
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.data.sides import SourceSide
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment
from llm_jax.models.config import TransformerConfig
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.extra import Extended
from tests import command

NAMES = ["sft", "dpo", "kto", "rm", "classify", "ppo", "grpo", "online_dpo"]


@pytest.mark.parametrize("name", NAMES)
def test_steps_of_every_kind_of_rows_can_be_traced(name):
  e = importlib.import_module(f"experiments.{name}_tiny_stdlib").EXPERIMENT
  mesh = mesh_lib.make(MeshShape(data=1))
  model = model_lib.of_shape(model_lib.expected_shape(e))
  asks = e.objective.needs_reference and e.reference == "each_step"
  its = state_plan.make(e, model, mesh, reference=asks)
  with jax.set_mesh(mesh):
    rows = abstract.batch(e, model, its.abstract.roles, mesh)
    new, metrics = jax.eval_shape(its.step, its.abstract, rows)
  assert {x.shape[0] for x in rows.values()} == {e.batch_size}
  assert "loss" in metrics
  jax.tree.map(lambda a, b: None, new, its.abstract)  # the same tree


def test_shapes_are_those_of_a_source():
  e = Experiment(data=Arrays(length=16), batch_size=8)
  mesh = mesh_lib.make(MeshShape(data=1))
  with jax.set_mesh(mesh):
    told = abstract.batch(e, None, None, mesh)
  real = e.data.load().train(8, 0).next()
  shapes = lambda rows: {n: (x.shape, x.dtype) for n, x in rows.items()}
  assert shapes(told) == shapes(real)


TEXTS = [
  (Plain(), SourceSide()),
  (Masked(), SourceSide()),
  (Spans(), SourceSide()),
  (PrefixLM(), SourceSide(12)),
]


@pytest.mark.parametrize("packing", ["cut", "best_fit"])
@pytest.mark.parametrize("what,source", TEXTS)
def test_shapes_are_those_of_text(what, source, packing, tmp_path):
  text = command.text_file(tmp_path)
  data = Text(
    sources=(Files(paths=(str(text),), split_by="line"),),
    corruption=what,
    source=source,
    packing=packing,
    length=16,
    cache=str(tmp_path / "cache"),
  )
  tokenizer = Extended(ByteTokenizer(), 9)
  plain = lambda items, total=None, label="": items
  real = data.prepare(plain).tokenise(tokenizer, plain).train(8, 0).next()
  mesh = mesh_lib.make(MeshShape(data=1))
  with jax.set_mesh(mesh):
    e = Experiment(data=data, batch_size=8)
    told = abstract.batch(e, None, None, mesh)
  shapes = lambda rows: {n: (x.shape, x.dtype) for n, x in rows.items()}
  assert shapes(told) == shapes(real)


@pytest.mark.parametrize(
  "rows", ["pairs", "labels", "answers", "classes", "rankings"]
)
def test_shapes_are_those_of_prompts_apart(rows, tmp_path):
  said = [
    json.dumps({"prompt": f"{i}", "chosen": "a", "rejected": "b"})
    for i in range(20)
  ]
  path = command.text_file(tmp_path, "pairs.jsonl", said)
  data = Preferences(
    sources=(PreferenceFiles(paths=(str(path),)),),
    rows=rows,
    completions=2,
    length=16,
    source=SourceSide(12),
    widths=1,
    cache=str(tmp_path / "cache"),
  )
  plain = lambda items, total=None, label="": items
  found = data.prepare(plain).tokenise(ByteTokenizer(), plain)
  mesh = mesh_lib.make(MeshShape(data=1))
  with jax.set_mesh(mesh):
    told = abstract.batch(Experiment(data=data, batch_size=8), None, None, mesh)
  shapes = lambda rows: {n: (x.shape, x.dtype) for n, x in rows.items()}
  assert shapes(told) == shapes(found.train(8, 0).next())


@pytest.mark.parametrize(
  "rows,label", [("classes", "a"), ("class_sets", ["a"]), ("numbers", 1.0)]
)
def test_shapes_are_those_of_labelled_texts(rows, label, tmp_path):
  other = {"a": "b"}.get(str(label), label)
  said = [
    json.dumps({"text": f"{i}", "label": (label, other)[i % 2]})
    for i in range(20)
  ]
  path = command.text_file(tmp_path, "labelled.jsonl", said)
  data = Examples(
    sources=(ExampleFiles(paths=(str(path),)),),
    rows=rows,
    length=16,
    widths=1,
    cache=str(tmp_path / "cache"),
  )
  plain = lambda items, total=None, label="": items
  found = data.prepare(plain).tokenise(ByteTokenizer(), plain)
  model = TransformerConfig(outputs=max(1, len(found.classes)))
  mesh = mesh_lib.make(MeshShape(data=1))
  with jax.set_mesh(mesh):
    e = Experiment(model=model, data=data, batch_size=8)
    told = abstract.batch(e, None, None, mesh)
  shapes = lambda rows: {n: (x.shape, x.dtype) for n, x in rows.items()}
  assert shapes(told) == shapes(found.train(8, 0).next())
