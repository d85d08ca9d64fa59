"""Whole runs on text of which something is taken away."""

import dataclasses
import json

import pytest

from llm_jax.data.arrays import Arrays
from llm_jax.data.denoisers import Masked, Mixture, Plain, PrefixLM, Spans
from llm_jax.data.files import Files
from llm_jax.data.text import Text
from llm_jax.experiment import Evaluation, Samples, Validation
from llm_jax.objectives.causal import Causal
from llm_jax.tokenizers.bytes import Bytes
from tests import command

WAYS = {
  "masked": (Masked(rate=0.3), "all", "bits_per_masked_byte"),
  "mixture": (
    Mixture((Spans(), PrefixLM()), (), ("R", "S")),
    "prefix",
    "bits_per_target_byte",
  ),
}


def experiment(folder, what, sees="before"):
  text = command.text_file(folder)
  return dataclasses.replace(
    command.EXPERIMENT,
    model=dataclasses.replace(command.EXPERIMENT.model, sees=sees),
    tokenizer=Bytes(extra_ids=8),
    data=Text(
      sources=(Files(paths=(str(text),), split_by="line"),),
      corruption=what,
      length=16,
      validation=0.2,
      cache=str(folder / "cache"),
    ),
    samples=Samples(every=0),
    validation=Validation(every=2, batches=1, questions=8),
  )


@pytest.mark.parametrize("name", WAYS)
def test_train_resume_and_evaluate(name, tmp_path):
  what, sees, per_byte = WAYS[name]
  its = experiment(tmp_path, what, sees)
  command.train(its, tmp_path / "run")  # two steps
  longer = dataclasses.replace(its, steps=3)
  parts = command.train(longer, tmp_path / "run")
  if name == "mixture":
    assert parts == command.train(longer, tmp_path / "whole")
  said = command.call(
    "evaluate", f"--workdir={tmp_path / 'run'}", experiment=its
  )
  assert said.code == 0, said.err
  found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  measures = found["results"]["model"]
  assert per_byte in measures and "bits_per_byte" not in measures
  assert set(found["results"]) == {"model"}  # n-grams tell another thing
  assert ("exact_match" in measures) == (name == "mixture")
  words = per_byte.replace("bits_per_", "bits/").replace("_", " ")
  assert words in said.out and "bits/byte" not in said.out


def test_what_cannot_be(tmp_path):
  its = experiment(tmp_path, Spans())
  run = f"--workdir={tmp_path / 'run'}"
  bare = dataclasses.replace(its, tokenizer=Bytes())
  said = command.refused(tmp_path, "train", run, experiment=bare)
  assert "--tokenizer.extra_ids: the tokenizer has 0 ids" in said
  apart = ["train", run, "--data.source.length=16"]
  said = command.refused(tmp_path, *apart, experiment=its)
  assert "--data.source.length=16: the model is a decoder alone" in said
  plain = experiment(tmp_path, Masked(), "all")
  said = command.refused(tmp_path, *apart, experiment=plain)
  assert "--data.source.length=16: text as --data.corruption (Masked)" in said


SIGHTS = [
  (Plain(), "all", {}, "--model.sees=all: a position sees the next token"),
  (Masked(), "before", {}, "--model.sees=before: what is hidden where"),
  (Masked(), "prefix", {}, "--model.sees=prefix: what is hidden where"),
  (Spans(), "all", {}, "which --data (Spans) has it tell"),
  (
    *(PrefixLM(), "prefix", {"objective": Causal(prompt_weight=0.1)}),
    "--objective.prompt_weight: with --model.sees=prefix",
  ),
  (
    *(Masked(), "all", {"evaluations": (Evaluation("a", Arrays()),)}),
    "which --evaluations.0.data (Arrays) has it tell",
  ),
  (Masked(), "all", {"samples": Samples(every=1)}, "--samples.every=1: an enc"),
]


@pytest.mark.parametrize("what,sees,more,said", SIGHTS)
def test_what_a_position_must_not_see(what, sees, more, said, tmp_path):
  its = dataclasses.replace(experiment(tmp_path, what, sees), **more)
  found = command.refused(
    tmp_path, "train", f"--workdir={tmp_path / 'run'}", experiment=its
  )
  assert said in found
