"""Heads of encoder-decoders: folders of others trained, measured, handed on."""

import dataclasses
import json

import numpy as np
import pytest

from llm_jax.data.example_sources import ExampleFiles
from llm_jax.data.examples import Examples
from llm_jax.data.passage_sources import PassageFiles
from llm_jax.data.passages import Passages
from llm_jax.data.sides import SourceSide
from llm_jax.experiment import Samples, Validation
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.spans import Spans
from llm_jax.peft.lora import LoRA
from llm_jax.sharding.mesh import MeshShape
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule
from tests import command
from tests.interop import tiny

# Which folder, what its tokenizer puts around a text, how its targets begin.
KINDS = {
  "text": ("bart", "<s> $A </s>", "eos", "BartForSequenceClassification"),
  "span": ("t5", "$A </s>", "pad", "T5ForQuestionAnswering"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("heads_apart")
  texts = [
    {"text": f"text {i}", "text_pair": f"{i}", "label": ("sad", "glad")[i % 2]}
    for i in range(60)
  ]
  asked = [
    {
      "id": f"q{i}",
      "question": "when?",
      "context": f"seen in {i}",
      "answers": [{"text": str(i), "answer_start": 8}] if i % 2 else [],
    }
    for i in range(60)
  ]
  for name, rows in (("text", texts), ("span", asked)):
    command.text_file(folder, f"{name}.jsonl", map(json.dumps, rows))
  for name, around, _, _ in KINDS.values():
    path = tiny.whole(folder / name, name, dtype=np.float32)
    tiny.tokenizer(path, single=around)
  # As BART's own say, of which what only tells takes no notice.
  path = folder / "bart" / "config.json"
  said = json.loads(path.read_text()) | {"forced_bos_token_id": 1}
  path.write_text(json.dumps(said))
  return folder


def experiment(home, of, **changes):
  base, _, start, _ = KINDS[of]
  paths = (str(home / f"{of}.jsonl"),)
  settings = {"cache": str(home / "cache"), "validation": 0.3, "widths": 1}
  if of == "text":
    sources = (ExampleFiles(paths=paths),)
    data = Examples(
      sources, length=16, between=2, source=SourceSide(16, start), **settings
    )
  else:
    sources = (PassageFiles(paths=paths),)
    data = Passages(
      sources, length=24, overlap=2, source=SourceSide(24, start), **settings
    )
  dense = "tanh" if of == "text" else "none"
  its = dataclasses.replace(
    command.EXPERIMENT,
    model=EncoderDecoderConfig(
      outputs=2, output_bias=True, output_dense=dense, dropout=0.1, unroll=1
    ),
    objective=Classification() if of == "text" else Spans(),
    data=data,
    init_from=f"hf:{home / base}",
    mesh=MeshShape(data=1),
    steps=2,
    samples=Samples(every=0),
    validation=Validation(every=0),
  )
  return dataclasses.replace(its, **changes)


def run(verb, folder, its, *more):
  said = command.call(verb, f"--workdir={folder}", *more, experiment=its)
  assert said.code == 0, said.err


def measured(folder, its):
  run("evaluate", folder, its)
  return json.loads((folder / "evaluation.json").read_text())["results"]


@pytest.mark.parametrize("of", KINDS)
def test_a_folder_is_trained_measured_and_handed_on(of, home):
  """What is written again is begun from, and tells what the run told.

  Of texts adapters are trained, beside both maps of the head.
  """
  its, folder, to = experiment(home, of), home / f"run_{of}", home / f"to_{of}"
  if of == "text":
    its = dataclasses.replace(
      its,
      peft=LoRA(rank=2),
      optimizer=AdamW(peak=0.05, schedule=Schedule("constant", warmup=0)),
    )
  run("train", folder, its)
  want = measured(folder, its)
  run("export", folder, its, f"--to={to}")
  said = json.loads((to / "config.json").read_text())
  assert said["architectures"] == [KINDS[of][3]]
  if of == "text":
    assert said["id2label"] == {"0": "glad", "1": "sad"}
    assert said["problem_type"] == "single_label_classification"
  bases = [f"hf:{to}"]
  if of == "text":
    adapters = home / "adapters"
    run("export", folder, its, "--adapter=peft", f"--to={adapters}")
    said = json.loads((adapters / "adapter_config.json").read_text())
    head = [f"classification_head.{name}" for name in ("dense", "out_proj")]
    assert said["modules_to_save"] == head
    bases.append(f"{its.init_from}+peft:{adapters}")
  for i, base in enumerate(bases):
    again = experiment(home, of, init_from=base)
    got = measured(home / f"again_{of}{i}", again)
    loss = pytest.approx(want["model"]["loss"], rel=1e-5)
    assert got["model"]["loss"] == loss
    assert got.keys() == want.keys() and len(want) == 2  # and a baseline


REFUSED = {
  "no source": (
    ["--data.source.length=0"],
    "--data.source.length=0: an encoder-decoder reads a source of its own",
  ),
  "a shorter source": (
    ["--data.source.length=8"],
    "--data.source.length=8: an encoder reads the text that a decoder reads"
    " again, of --data.length=16; 16",
  ),
  "another start": (
    ["--data.source.start=pad"],
    "--data.source.start=pad: is the id 0, and targets of the model begin with",
  ),
  "the first token": (
    ["--data.read_at=first"],
    "--data.read_at=first: what sees no later token",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_told_in_a_line(case, home, tmp_path):
  flags, words = REFUSED[case]
  said = command.call(
    *("train", f"--workdir={tmp_path / 'run'}", *flags),
    experiment=experiment(home, "text"),
  )
  assert said.code == 2 and words in said.error, said.err


def test_tokens_that_an_encoder_tells_alone_are_refused(home, tmp_path):
  found = tiny.golden("t5")
  config = found["config"] | {"architectures": ["T5ForTokenClassification"]}
  folder = tiny.write(tmp_path / "t5", config, found["tensors"])
  said = command.call(
    *("train", f"--workdir={tmp_path / 'run'}", f"--init_from=hf:{folder}"),
    experiment=experiment(home, "text"),
  )
  assert said.code == 2
  assert "'T5ForTokenClassification'; nearest are T5For" in said.error
