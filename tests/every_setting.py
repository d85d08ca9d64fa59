"""Whatever reads a setting, called once."""

import dataclasses
import json
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import (
  axes,
  cuts,
  judging,
  marking,
  normalising,
  on_policy,
  reinforcing,
  state_plan,
  weights,
)
from llm_jax import model as model_lib
from llm_jax.contracts import Question, Verdict
from llm_jax.data.arrays import Arrays
from llm_jax.data.conversation import Conversation, Message
from llm_jax.data.conversations import Conversations, TFDSConversations
from llm_jax.data.denoisers import Masked, Mixture, PrefixLM, Spans
from llm_jax.data.example_sources import ExampleFiles, TFDSExamples
from llm_jax.data.examples import Examples
from llm_jax.data.files import Files
from llm_jax.data.instructions import Instructions
from llm_jax.data.passage_sources import PassageFiles, TFDSPassages
from llm_jax.data.passages import Passages
from llm_jax.data.preference_sources import PreferenceFiles, TFDSPreferences
from llm_jax.data.preferences import Preferences
from llm_jax.data.questions import Example
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib import Stdlib
from llm_jax.data.stdlib_examples import StdlibExamples
from llm_jax.data.stdlib_passages import StdlibPassages
from llm_jax.data.stdlib_preferences import StdlibPreferences
from llm_jax.data.stdlib_tags import StdlibTags
from llm_jax.data.stdlib_tasks import StdlibTasks
from llm_jax.data.tag_sources import ColumnFiles, TagFiles, TFDSTags
from llm_jax.data.tags import Tags
from llm_jax.data.text import Text
from llm_jax.data.tfds_source import TFDS
from llm_jax.experiment import Evaluation, Ptx
from llm_jax.generation.rollouts import Rollouts
from llm_jax.judges.endpoint import ByEndpoint, Endpoint
from llm_jax.judges.function import ByFunction, Function
from llm_jax.judges.reward import RewardModel
from llm_jax.judges.rubric import ByRubric, Rubric
from llm_jax.judges.rules import Length, Rule
from llm_jax.judges.weighted import Sum
from llm_jax.models import transformer
from llm_jax.models.config import Experts, RopeScaling
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.objectives import dpo, group, separate, unreferenced
from llm_jax.objectives import spans as span_objectives
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.multi_label import MultiLabel
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.ranking import Ranking
from llm_jax.objectives.regression import Regression
from llm_jax.objectives.shaping import Shaping
from llm_jax.objectives.transport import AOT
from llm_jax.peft.bottlenecks import Bottlenecks
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.method import Full
from llm_jax.peft.prompts import Prefix, Prompt
from llm_jax.peft.select import BitFit, Select
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.tokenizers.sentencepiece import SentencePiece
from llm_jax.training import optimizers
from llm_jax.training.schedules import Schedule
from tests import command, small
from tests.objectives import table

plain = lambda items, total=None, label="": items


def run_everything(folder, text):
  """A run goes on for a step, and is used."""
  said = command.call(
    "train",
    *command.train_flags(folder, text),
    "--steps=3",
    "--validation.every=3",
    "--log.tensorboard=true",
  )
  assert said.code == 0, said.err
  rows = [json.dumps({"prompt": f"q{i}", "completion": "a"}) for i in range(9)]
  asked = command.text_file(folder, "questions.jsonl", rows)
  data = Instructions(
    sources=(Conversations(paths=(str(asked),)),), length=16, validation=0.5
  )
  experiment = dataclasses.replace(
    command.EXPERIMENT, evaluations=(Evaluation("q", data, questions=1),)
  )
  for verb in (["evaluate"], ["generate", "--prompt=a"]):
    said = command.call(
      *verb,
      f"--workdir={folder / 'run'}",
      "--samples.max_new_tokens=2",
      experiment=experiment,
    )
    assert said.code == 0, said.err


def trace_step(experiment):
  """Shapes of a step, nothing compiled."""
  model = model_lib.of_shape(model_lib.expected_shape(experiment))
  mesh = mesh_lib.make(experiment.mesh)
  with jax.set_mesh(mesh):
    plan = state_plan.make(experiment, model, mesh)
    x = jax.ShapeDtypeStruct((8, 16), jnp.int32)
    batch = {"tokens_BT": x, "target_BT": x, "mask_BT": x.update(dtype=bool)}
    if model.shape.reads_sources:
      batch["source_BS"] = x
    jax.eval_shape(plan.step, plan.abstract, batch)


def try_every_peft():
  prompts = (Prompt(tokens=4, init=i) for i in ("text", "vocabulary", "random"))
  methods = (LoRA(), IA3(), Bottlenecks(), Prefix(), Select(), BitFit())
  for method in (Full(), *methods, *prompts):
    frozen = "same" if method in (Full(), Select()) else "bfloat16"
    trace_step(
      dataclasses.replace(command.EXPERIMENT, peft=method, frozen=frozen)
    )


def try_every_model():
  scaled = dataclasses.replace(
    small.CONFIG, rope_scaling=RopeScaling(factor=8.0), dropout=0.1
  )
  for shape in (*small.SHAPES.values(), scaled):
    model = transformer.Decoder(shape)
    tokens = jnp.zeros((1, 4), jnp.int32)
    jax.eval_shape(model.init, jax.random.key(0), tokens)
  for cell, norm in (("lstm", "none"), ("gru", "rms")):
    other = RecurrentConfig(
      cell=cell, norm=norm, embed_dim=8, max_length=16, dropout=0.1
    )
    trace_step(dataclasses.replace(command.EXPERIMENT, model=other))
  apart = EncoderDecoderConfig(embed_dim=8, num_heads=2, max_length=32)
  heard = RecurrentEncoderDecoderConfig(embed_dim=8, max_length=32)
  for other in (apart, heard):
    trace_step(dataclasses.replace(command.EXPERIMENT, model=other))
    its = dataclasses.replace(other, vocab_size=16, start_id=1)
    jax.eval_shape(lambda its=its: read_and_write(model_lib.of_shape(its)))
  deep = dataclasses.replace(command.EXPERIMENT.model, num_layers=2)
  for axis in ("stage", "context"):
    cut = mesh_lib.MeshShape(**{axis: 2})
    trace_step(dataclasses.replace(command.EXPERIMENT, model=deep, mesh=cut))
  mixed = dataclasses.replace(deep, experts=Experts(num=2))
  for more in ({}, {"peft": LoRA(), "frozen": "nf4"}):
    trace_step(dataclasses.replace(command.EXPERIMENT, model=mixed, **more))


def read_and_write(model):
  """A source is read, and a target begun."""
  variables = axes.unbox(model.init(jax.random.key(0)))
  ids = jnp.ones((1, 3), jnp.int32)
  return model.decode(
    variables, ids, ids, ids, model.open_cache(variables, 1, 4)
  )


def try_every_optimizer(*more):
  kinds = (optimizers.AdamW, optimizers.Lion, optimizers.Muon)
  for kind in (*kinds, optimizers.Adafactor, *more):
    for schedule in ("cosine", "linear", "wsd", "constant"):
      optimizer = kind(schedule=Schedule(schedule))
      optimizer.make(10, {"w": "LDF", "b": "D"})


def try_every_objective():
  """On rows of completions; shapes only."""
  i32 = jax.ShapeDtypeStruct((4, 3), jnp.int32)
  number = jax.ShapeDtypeStruct((4,), jnp.float32)
  batch = {
    "tokens_BT": i32,
    "target_BT": i32,
    "mask_BT": i32.update(dtype=bool),
  }
  whole = jax.ShapeDtypeStruct((4,), jnp.int32)
  batch |= {"label_B": number, "margin_B": number, "class_B": whole}
  sets = jax.ShapeDtypeStruct((4, 1), bool)
  batch |= {"classes_BO": sets, "number_B": number}
  margins = (dpo.DPO, dpo.RobustDPO, dpo.Hinge, dpo.IPO, dpo.EXO, dpo.DiscoPOP)
  apart = (separate.NCA, separate.APO, separate.SPPO, separate.BCO)
  heads = (Ranking, Classification, MultiLabel, Regression)
  alone = (unreferenced.SimPO, unreferenced.CPO, unreferenced.SFT)
  alone += (unreferenced.Sum,)
  for objective in (
    *(kind() for kind in (*margins, *apart, *alone, *heads, AOT, KTO)),
    dpo.DPO(divergence="alpha"),
    unreferenced.ORPO(nll_of="completion"),
  ):
    jax.eval_shape(lambda b, o=objective: table.trace(o, b), batch)


def try_every_drawing():
  """A minibatch of what a policy draws; of what is compiled, shapes only."""
  experiment = dataclasses.replace(
    command.EXPERIMENT,
    model=dataclasses.replace(small.CONFIG, outputs=1),
    rollouts=Rollouts(batch=8, max_new_tokens=3),
    shaping=Shaping(
      missing_eos="subtract", clip=1.0, target=1.0, overlong=1, scale="first"
    ),
  )
  asked = (Conversation((Message("user", "a"), Message("assistant", "b"))),)
  tokens = mock.Mock()
  tokens.examples.return_value = [Example([1, 2], "b", c) for c in asked]
  mesh = mesh_lib.make(mesh_lib.MeshShape(1, 1, 1))
  model, variables = small.build(experiment.model)
  roles = dict.fromkeys(("policy", "reference", "value"), variables)
  zeros = lambda f: (
    lambda *a: jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(f, *a)
    )
  )
  for objective in (
    PPO(dual_clip=3.0, entropy=0.1, kl=0.1, critic="own"),
    dataclasses.replace(PPO(), whiten="minibatch", whiten_rewards=True),
    group.grpo(4),
    group.gspo(4),
    dataclasses.replace(group.reinforce_pp(), mean="constant"),
  ):
    its = dataclasses.replace(experiment, objective=objective)
    made = reinforcing.functions(its, model_lib.of_shape(its.model), (3,))
    source = on_policy.OnPolicy(
      its.rollouts,
      its.shaping,
      objective,
      reinforcing.prompts(its, tokens),
      on_policy.Functions(zeros(made.draw), zeros(made.score)),
      on_policy.Reward(str, lambda asked: map_scores(asked)),
      (0, 0),
      0,
      4,
      getattr(objective, "completions", 1),
      mesh,
    )
    batch = source.next(SimpleNamespace(roles=roles))
    assert source.get_state()["served"] == 1 and not source.waits
    weighed = jax.eval_shape(objective.weigh, batch)
    forward = state_plan.forward(model_lib.of_shape(its.model), its.scored_at)
    jax.eval_shape(
      lambda b, o=objective, f=forward: o.loss(f, roles, b, None), weighed
    )

  beside = dataclasses.replace(experiment, ptx=(Ptx(),))
  assert cuts.share(beside, mesh_lib.make(mesh_lib.MeshShape(1, 1, 1)))

  reinforcing.source(
    its,
    tokens,
    store.ByteTokenizer(),
    model_lib.of_shape(its.model),
    mesh,
    None,
  )
  there = dataclasses.replace(experiment, value_from="nowhere")
  state = SimpleNamespace(trainable={"value": None})
  with pytest.raises(ValueError, match="--value_from=nowhere"):
    weights._with_critic(there, None, None, state)


def map_scores(asked):
  return [Verdict((0.5,) * len(q.completions)) for q in asked]


def try_every_source(folder, cache):
  prepared, *_ = cache.glob("documents/*/corpus/*")
  for source in (
    TFDS(name=str(prepared), split="documents"),
    Stdlib(),
  ):
    source.identity(plain)
    assert next(iter(source.documents()))
  with pytest.raises(ValueError):
    TFDS(name="no_such_builder").identity(plain)
  np.arange(100, dtype="<u2").tofile(folder / "ids.bin")
  for path in ("", str(folder / "ids.bin")):
    Arrays(path=path, length=4).load().held_out("validation", 2)
  corpus = Text(
    sources=(TFDS(name=str(prepared), split="documents"),),
    cache=str(folder / "cache2"),
    length=4,
    packing="best_fit",
  ).prepare(plain)
  for settings in (
    SentencePiece(vocab_size=300),
    SentencePiece(kind="char"),
  ):
    texts = lambda: corpus.texts("train")
    tokenizer = store.obtain(settings, texts, folder / settings.kind)
    corpus.tokenise(tokenizer, plain).train(2, 0)


def try_every_corruption(folder):
  text = Files(paths=(str(command.text_file(folder)),), split_by="line")
  ways = (Masked(whole_words=True), Spans(), PrefixLM(), Mixture())
  for what in ways:
    apart = SourceSide() if what is ways[0] else SourceSide(16, "bos")
    data = Text(
      sources=(text,),
      cache=str(folder / "cache2"),
      length=16,
      corruption=what,
      source=apart,
    ).prepare(plain)
    tokenizer = store.obtain(Bytes(extra_ids=20), None, folder / "extra")
    data.tokenise(tokenizer, plain).train(2, 0).next()


def try_every_conversation(folder, cache):
  prepared, *_ = cache.glob("documents/*/corpus/*")
  source = TFDSConversations(
    name=str(prepared), split="documents", prompt="say", answer="text"
  )
  assert next(iter(source.documents()))
  assert StdlibTasks().identity(plain)
  rows = [json.dumps({"q": f"{i}", "answer": "a"}) for i in range(40)]
  path = command.text_file(folder, "rows.jsonl", rows)
  data = Instructions(
    sources=(
      Conversations(
        paths=(str(path),), task="question_answering", fields=("question=q",)
      ),
    ),
    cache=str(folder / "cache3"),
    length=64,
  ).prepare(plain)
  data.tokenise(store.ByteTokenizer(), plain).train(2, 0)


def try_every_preference(folder, cache):
  prepared, *_ = cache.glob("documents/*/corpus/*")
  source = TFDSPreferences(
    name=str(prepared), split="documents", fields=("prompt=text",)
  )
  with pytest.raises(ValueError, match="of no known format"):
    next(iter(source.documents()))
  assert StdlibPreferences().identity(plain)
  rows = [
    json.dumps({"prompt": f"{i}", "completions": ["a", "b"], "scores": [1, 2]})
    for i in range(20)
  ]
  path = command.text_file(folder, "preferences.jsonl", rows)
  for kind in ("pairs", "rankings"):
    data = Preferences(
      sources=(PreferenceFiles(paths=(str(path),), scale=(1.0, 5.0)),),
      rows=kind,
      cache=str(folder / "cache4"),
      length=64,
    ).prepare(plain)
    data.tokenise(store.ByteTokenizer(), plain).train(4, 0)
  said = PreferenceFiles(classes=("good", "bad"))
  assert said.read({"text": "a", "label": "bad"}, "").classes() == [1]
  rows = [
    json.dumps({"prompt": "a", "completions": ["b", "c"], "ranking": judged})
    for judged in ({"x": [0, 1], "y": [1, 0]},)
  ]
  path = command.text_file(folder, "judged.jsonl", rows)
  data = Preferences(
    sources=(PreferenceFiles(paths=(str(path),), faulty="drop"),),
    cache=str(folder / "cache4"),
  ).prepare(plain)
  assert data.tokenise(store.ByteTokenizer(), plain).notes
  empty = Preferences(
    sources=(PreferenceFiles(paths=(str(path),), fields=("prompt=none",)),),
    cache=str(folder / "cache4"),
  )
  with pytest.raises(ValueError, match="of no known format"):
    empty.prepare(plain)


def try_every_example(folder, cache):
  prepared, *_ = cache.glob("documents/*/corpus/*")
  source = TFDSExamples(name=str(prepared), split="documents", label="text")
  assert next(iter(source.examples("classes"))).text
  assert StdlibExamples().identity(plain)
  assert next(iter(StdlibExamples(("email",)).examples("classes")))
  rows = [json.dumps({"text": f"{i}", "label": i % 2}) for i in range(40)]
  path = command.text_file(folder, "labelled.jsonl", rows)
  data = Examples(
    sources=(ExampleFiles(paths=(str(path),)),),
    cache=str(folder / "cache5"),
    length=16,
  ).prepare(plain)
  data.tokenise(store.ByteTokenizer(), plain).train(2, 0).next()


def try_every_mark(folder):
  """Words with tags, and questions about texts."""
  for source in (StdlibTags(), StdlibPassages()):
    assert source.identity(plain)
  for source in (TFDSTags(name="no_such"), TFDSPassages(name="no_such")):
    with pytest.raises(ValueError):
      source.identity(plain)
  columns = command.text_file(folder, "a.conll", ["a O", "b B-X", "", "c O"])
  row = json.dumps({"words": ["a"], "tags": ["O"]})
  words = command.text_file(folder, "words.jsonl", [row])
  answer = {"text": ["b"], "answer_start": [2]}
  of = lambda i, its: {"id": i, "question": "q", "context": "a b"} | its
  some, none = of(0, {"answers": answer}), of(1, {"answers": []})
  rows = map(json.dumps, (some, none))
  asked = command.text_file(folder, "asked.jsonl", rows)
  how = {"cache": str(folder / "cache5"), "length": 16, "validation": 0.0}
  for data in (
    Tags(
      sources=(ColumnFiles((str(columns),)), TagFiles((str(words),))), **how
    ),
    Passages(sources=(PassageFiles((str(asked),)),), overlap=2, **how),
  ):
    made = data.prepare(plain).tokenise(store.ByteTokenizer(), plain)
    made.train(2, 0).next()
  logits = np.zeros((1, 16, 2))
  batch = {"mask_BT": np.ones((1, 16), bool), "row_B": np.zeros(1, int)}
  marking._answers(made, "train", [(logits, batch)], span_objectives.Spans())
  list(StdlibTags(packages=("json",)).sentences())
  assert next(StdlibPassages(functions=2).passages())


def try_every_judge(folder, there):
  question = Question((("user", "a"),), ("b", "cc"), "b 1")
  for rule in Rule.__subclasses__():
    assert list(rule()([question]))
  file = folder / "mine.py"
  file.write_text("def f(prompt, completion, reference):\n  return None\n")
  mine = Function(f"{file}:f", failed=0.0)
  assert list(ByFunction(mine)([question]))
  both = dataclasses.replace(
    command.EXPERIMENT, judge=Sum((mine, Length()), (1.0, 2.0))
  )
  judge, _ = judging.make(both, folder, None, None)
  assert list(judge([question]))
  even = lambda rows: [0.0] * len(rows)
  assert list(ByRubric(Rubric(), even)([question]))
  nobody = Endpoint(
    url="http://127.0.0.1:9",
    model="m",
    retries=1,
    wait=0.0,
    cache=str(folder / "answers"),
  )
  for ask in ("pairs", "scores"):
    with pytest.raises(ValueError, match="could not be reached"):
      list(ByEndpoint(dataclasses.replace(nobody, ask=ask))([question]))
  prompts = command.text_file(folder, "prompts.txt", ["a", "b"])
  verb = (
    "label",
    f"--workdir={there}",
    f"--prompts_file={prompts}",
    "--samples.max_new_tokens=2",
  )
  for judge in (RewardModel(run="none"), Rubric(run="none")):
    experiment = dataclasses.replace(command.EXPERIMENT, judge=judge)
    said = command.call(
      *verb, f"--into={folder / 'a.jsonl'}", experiment=experiment
    )
    assert "--judge.run=none" in said.error
  experiment = dataclasses.replace(
    command.EXPERIMENT, judge=RewardModel(run=str(there)), objective=Ranking()
  )
  said = command.call(
    *verb, f"--into={folder / 'a.jsonl'}", experiment=experiment
  )
  assert "Causal, which has no rewards" in said.error
  assert normalising._has_any(experiment)
  assert normalising._spread(experiment, 3)
  for more in ("--best", "--nobest"):
    into = folder / f"{more}.jsonl"
    said = command.call(*verb, f"--into={into}", more)
    assert said.code == 0 or "nothing to write" in said.error
  rows = [json.dumps({"prompt": "q", "completion": "a"})]
  asked = command.text_file(folder, "asked.jsonl", rows)
  data = Instructions(
    sources=(Conversations(paths=(str(asked),)),),
    cache=str(folder / "cache3"),
    length=16,
  )
  said = command.call(
    "label",
    f"--workdir={there}",
    f"--into={folder / 'b.jsonl'}",
    "--label.split=test",
    experiment=dataclasses.replace(command.EXPERIMENT, data=data),
  )
  assert "the test split is empty" in said.error
