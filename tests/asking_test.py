"""Tuned runs by the command line: asked as in training, answered, measured."""

import dataclasses
import json
import shutil
from unittest import mock

import pytest

from llm_jax import adapting, asking
from llm_jax.data import chat
from llm_jax.data.conversations import Conversations
from llm_jax.data.denoisers import Spans
from llm_jax.data.instructions import Instructions
from llm_jax.data.sides import SourceSide
from llm_jax.data.text import Text
from llm_jax.experiment import Evaluation, Validation
from llm_jax.ops.sampling import Sampler
from llm_jax.peft.lora import LoRA
from llm_jax.peft.prompts import Prefix, Prompt
from llm_jax.peft.select import BitFit
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers import special
from llm_jax.tokenizers import store as tokenizers
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule
from tests import command

LENGTH, PLACES = 24, 8  # together as long as the model reads
# With template, stop and the answer "yes", exactly a row.
LONGEST = "q" * (LENGTH - 4 - len("yes"))
ROWS = [
  {"prompt": f"{LONGEST[:-2]}{i}", "completion": "yes"} for i in range(10, 70)
]
ANSWERS = Instructions(
  sources=(Conversations(),), length=LENGTH, validation=0.2
)
# Data, method and steps. Of no steps the base is asked in another way.
RUNS = {
  "chat": (ANSWERS, LoRA(rank=2), 0),
  "text": (command.EXPERIMENT.data, LoRA(rank=2), 0),
  "prompt": (ANSWERS, Prompt(tokens=PLACES), 2),
  "prefix": (ANSWERS, Prefix(tokens=PLACES), 2),
  "bitfit": (ANSWERS, BitFit(), 0),
}


def experiment(name):
  data, method, steps = RUNS[name]
  return dataclasses.replace(
    command.EXPERIMENT,
    data=data,
    peft=method,
    optimizer=AdamW(peak=1.0, schedule=Schedule("constant", warmup=0)),
    steps=steps,
    mesh=MeshShape(1, 1, 1),
    validation=Validation(every=0, questions=5),
    samples=dataclasses.replace(
      command.EXPERIMENT.samples,
      every=0,
      max_new_tokens=5,
      sampler=Sampler(temperature=0.0),
    ),
  )


def train(runs, name, *more, into=""):
  data = RUNS[name][0]
  path = runs / ("rows.jsonl" if data == ANSWERS else "text.txt")
  said = command.call(
    "train",
    *command.train_flags(runs, path)[1:],
    f"--workdir={runs / (into or name)}",
    f"--init_from={runs / 'base'}",
    *more,
    experiment=experiment(name),
  )
  assert said.code == 0, said.err


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A base, trained on text, and a run of each method on it."""
  there = command.trained(tmp_path_factory)
  folder = tmp_path_factory.mktemp("asking")
  (folder / "base").symlink_to(there / "run")
  command.text_file(folder)
  command.text_file(folder, "rows.jsonl", map(json.dumps, ROWS))
  for name in RUNS:
    train(folder, name)
  return folder


def generate(runs, where, *adapters, prompts=("a7", "q7")):
  given = [
    a if a == "none" else "+".join(str(runs / x) for x in a.split("+"))
    for a in adapters
  ]
  return command.call(
    "generate",
    f"--workdir={runs / where}",
    "--samples.max_new_tokens=5",
    "--samples.sampler.temperature=0",
    *(f"--prompt={p}" for p in prompts),
    *(f"--adapter={a}" for a in given),
  )


def texts(*args, **kwargs):
  said = generate(*args, **kwargs)
  assert said.code == 0, said.err
  return [part.partition("\n")[2] for part in said.out.split("--- ")[1:]]


@pytest.fixture(scope="module")
def alone(runs):
  return {
    name: texts(runs, name) for name in ("base", "chat", "text", "prompt")
  }


def test_an_answer_has_its_own_lines(runs, alone):
  for name, before in (("chat", "a7\n"), ("text", "a7"), ("base", "a7")):
    said = generate(runs, name, prompts=["a7"])
    assert said.code == 0 and said.out.startswith(before)
    assert said.out == alone[name][0]  # the same, one alone and one of two
  assert not alone["base"][0].startswith("a7\n")


def test_each_row_is_asked_as_its_adapter_was_trained(runs, alone):
  names = ("chat", "none", "text")
  want = [alone["base" if n == "none" else n] for n in names]
  mixed = [w[i] for i in range(2) for w in want]
  assert texts(runs, "base", *names) == mixed
  # Whatever run they are put on: its base counts, and how that is asked.
  assert texts(runs, "chat", "none") == alone["base"] == alone["text"]
  assert texts(runs, "base", "prompt") == alone["prompt"]
  # Mutant: all are asked as the base is.
  as_text = mock.patch.object(asking, "encoder", lambda _, t: t.encode)
  with as_text:
    found = texts(runs, "base", *names)
  assert [t.split("\n")[0] for t in mixed[::3]] == ["a7", "q7"]
  assert found[1:3] + found[4:] == mixed[1:3] + mixed[4:]
  assert found[0] != mixed[0] and found[3] != mixed[3]


def test_adapters_of_one_template_are_stacked(runs, alone):
  stacked = texts(runs, "base", "chat+bitfit")  # nothing and nothing
  assert stacked == alone["chat"]
  said = generate(runs, "base", "chat+text")
  assert said.error == (
    f"error: --adapter={runs / 'chat'}+{runs / 'text'}: adapters of different"
    f" templates cannot be stacked ({runs / 'chat'} chat, {runs / 'text'} none,"
    " its data are texts)"
  )


def test_room_is_what_the_adapter_leaves(runs):
  """Its virtual tokens are counted, those of the base's run are not."""
  for where, name, places in (
    ("base", "prompt", PLACES),
    ("prompt", "none", 0),
    ("prompt", "chat", 0),
    ("prompt", "prompt+chat", PLACES),
    ("chat", "prefix", 0),
  ):
    around = 1 if name == "none" else 4  # start, and the template's
    most = 32 - 5 - places - around
    with mock.patch.object(adapting, "load", side_effect=ValueError("loads")):
      said = generate(runs, where, name, prompts=["a" * most])
      assert said.error == "error: loads"
      said = generate(runs, where, name, prompts=["a" * (most + 1)])
    soft = f" after {PLACES} virtual ones" if places else ""
    assert f": {most + 1 + around} tokens{soft}, which with" in said.error


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_a_soft_prompt_goes_on_and_is_measured(runs, name):
  shutil.copytree(runs / name, runs / f"{name}_on")
  ways = [f"{name}_{way}" for way in ("on", "once")]
  for way in ways:
    train(runs, name, "--steps=3", "--samples.every=3", into=way)
  assert (samples := list((runs / ways[1] / "samples").iterdir()))
  for path in samples:  # before each answer a line ends
    assert json.loads(path.read_text())["samples"][0]["prompt"] == "\n"
  on, once = (losses(runs / way) for way in ways)
  assert on == once and [step for step, _ in once] == [1, 2, 3]

  # Questions that with their answers and the virtual tokens leave no place.
  said = command.call("evaluate", f"--workdir={runs / name}")
  assert said.code == 0, said.err
  found = json.loads((runs / name / "evaluation.json").read_text())
  assert found["datasets"]["data"]["questions"] == 5


def losses(folder):
  rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
  return [(r["step"], r["loss"]) for r in rows if r["split"] == "train"]


def test_rows_that_virtual_tokens_leave_no_room_for_are_told(runs):
  other = dataclasses.replace(ANSWERS, length=LENGTH + 1)
  measured = dataclasses.replace(
    experiment("prompt"), evaluations=(Evaluation("more", other),)
  )
  flags = ("evaluate", f"--workdir={runs / 'prompt'}")
  said = command.call(*flags, experiment=measured)
  assert said.error == (
    "error: --evaluations.0.data.length=25: after 8 virtual tokens longer than"
    " --model.max_length=32"
  )
  said = command.call(
    "evaluate",
    f"--workdir={runs / 'chat'}",
    f"--against={runs / 'prompt'}",
    "--data.length=25",
  )
  assert "reads 24 tokens at most, and rows here have 25" in said.error


def test_biases_that_the_base_has_no_place_for_are_not_merged(runs, tmp_path):
  into = tmp_path / "merged"
  said = command.call("merge", f"--workdir={runs / 'bitfit'}", f"--into={into}")
  assert said.code == 2 and not into.exists()
  assert said.error.startswith(f"error: --workdir={runs / 'bitfit'}: blocks/")
  assert "/bias: cannot be merged into the base's own weights" in said.error


def test_an_answer_ends_as_its_template_ends_it(tmp_path):
  path = tmp_path / "own.jinja"
  path.write_text(
    chat.CHAT.replace("m.content }}{{ tokens.end", "m.content }}{{ bos_token")
  )
  tokenizer = ByteTokenizer()
  known = (tokenizer.eos_id, tokenizer.role_ids["end"])
  for template, more in (
    ("chat", ()),
    ("plain", ()),
    (str(path), (tokenizer.bos_id,)),
  ):
    where = Instructions(template=template)
    assert asking.stop_ids(where, tokenizer) == (*known, *more)
  assert asking.stop_ids(command.EXPERIMENT.data, tokenizer) == known


SPELLED = "<|im_start|>user\n<user><end></s><eos><bos><|eot_id|>[INST]"


def test_what_spells_a_special_token_stays_text(tmp_path):
  """Also where the tokenizer has seen it; the template's own are there."""
  settings = SentencePiece(kind="bpe", vocab_size=300)
  lines = [SPELLED] * 20
  pieces = tokenizers.obtain(settings, lambda: iter(lines), tmp_path)
  for tokenizer in (ByteTokenizer(), pieces):
    role = tokenizer.role_ids
    for where, want in (
      (ANSWERS, [role["user"], role["end"], role["assistant"]]),
      (dataclasses.replace(ANSWERS, template="plain"), []),
      (command.EXPERIMENT.data, []),
    ):
      ids = asking.encoder(where, tokenizer)(SPELLED)
      assert [i for i in ids if i < special.COUNT] == want
      assert tokenizer.decode(ids) == SPELLED


def test_an_answer_begins_on_a_line_of_its_own():
  """What goes on with a text does not; spans told of a source are an answer."""
  source = SourceSide(length=8)
  assert asking.shown(Text(), "a") == "a"
  assert asking.shown(Text(corruption=Spans(), source=source), "a") == "a\n"
  assert asking.shown(Instructions(), "a") == "a\n"
