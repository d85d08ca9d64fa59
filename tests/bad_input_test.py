"""Bad input: exit code 2, one line that names the flag, nothing left behind."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from llm_jax import build, claim, config
from llm_jax.data.arrays import Arrays
from llm_jax.data.text import Text
from tests import command
from tests.command import refused

ROOT = pathlib.Path(__file__).parent.parent


WRONG = {
  "--stepz=3": "unknown flag --stepz; did you mean --steps?",
  "--data.lenght=3": "did you mean --data.length?",
  "--peak=3": "unknown flag --peak; did you mean --optimizer.peak?",
  "--batch-size=3": "did you mean --batch_size?",
  "--every=3": "--checkpoints.every or --log.every?",
  "--step=3": "unknown flag --step; did you mean --steps?",
  "--tokenizer.x=3": "--tokenizer.x; did you mean --tokenizer.extra_ids?",
  "--model.rope=3": "did you mean --model.rope_theta or --model.rope_dim?",
  "--xyzzy": "unknown flag --xyzzy; --help lists all",
  "--steps=3.5": "--steps=3.5: must be a whole number, at least 0",
  "--steps=-1": "--steps=-1: must be a whole number, at least 0",
  "--steps=": "--steps=: must be a whole number",
  "--steps": "--steps: no value given",
  "--batch_size=0": "--batch_size=0: must be a whole number, at least 1",
  "--microbatches=0": "at least 1",
  "--seed=-1": "from 0 to 4294967295",
  "--seed=4294967296": "from 0 to 4294967295",
  "--average=1": "--average=1: must be less than 1",
  "--model.dtype=float64": "JAX_ENABLE_X64=1",
  "--model.attention=cudnn": "needs a GPU, not cpu",
  "--model.attention=splash": "needs a TPU, not cpu",
  "--mesh.data=2 --mesh.context=4 --data.length=14": (
    "--data.length=14: not divisible by --mesh.context=4"
  ),
  "--optimizer.peak=nan": "must be a finite number, at least 0",
  "--optimizer.peak=fast": "must be a finite number",
  "--optimizer.b1=1.5": "from 0 to 1",
  "--optimizer.schedule.kind=cosin": "one of cosine, linear, wsd, constant",
  "--model.norm=batch": "--model.norm=batch: must be one of rms, layer",
  "--log.tensorboard=maybe": "must be true or false",
  "--nolog.tensorboard=1": "does not take an argument",
  "--data.weights=1,x": "must be finite numbers, between commas",
  "--data.weights=1,2": "one positive number for each of 1 sources",
  "--data.validation=0.6 --data.test=0.4": "nothing is left to train on",
  "--steps=3 --steps=4": "--steps: given twice",
  "--prompt=x": "--prompt: read by generate only, not by train",
  "--checkpoint_step=3": (
    "read by evaluate, export, generate, label, merge only, not by train"
  ),
  "steps=3": "did you mean --steps=3?",
  "plan": "unexpected 'plan' after train",
  "--num_processes=2": "--coordinator and --process_id: must be given",
  "--coordinator=a:1 --num_processes=2 --process_id=2": "from 0 to",
  "--coordinator=a --num_processes=2 --process_id=1": "must be host:port",
  "--join_timeout=0": "--join_timeout=0: must be 1 or more",
  "--distributed": "--distributed: JAX finds no cluster here",
  "--distributed --process_id=0": "finds what --coordinator says; give one",
  "--model.num_heads=3": "--model.num_heads=3: must divide",
  "--model.num_heads=4 --model.num_kv_heads=3": "--model.num_kv_heads=3: must",
  "--data.length=64": "--data.length=64: longer than --model.max_length=32",
  "--samples.max_new_tokens=32": "--samples.max_new_tokens=32: leaves no place",
  "--batch_size=12": "--batch_size=12: not divisible by the mesh",
  "--microbatches=3": "--batch_size=8: not divisible by --microbatches=3",
  "--mesh.data=16": "needs 16 devices, this machine has 8",
  "--mesh.fsdp=3": "--mesh.fsdp=3: 8 devices are not",
  "--mesh.fsdp=-1": "-1 at most once",
  "--mesh.tensor=0": "sizes are 1 or more",
  "--mesh.slices.data=3": "--mesh.slices.data=3: does not divide the 8 of",
  "--mesh.stage=2": "--mesh.stage=2: does not divide --model.num_layers=1",
  "--mesh.stage=2 --model.num_layers=2 --model.dtype=bfloat16": (
    "--mesh.stage=2: XLA cannot compile stages in --model.dtype=bfloat16 for"
  ),
  "--mesh.stage=2 --model.num_layers=2 --model.stage_microbatches=3": (
    "--model.stage_microbatches=3: does not divide the 2 rows"
  ),
  "--compiler=xla_new": "--compiler=xla_new: must be name=value",
  "--compiler=xla_new=1": "No such compile option: 'xla_new'",
  "--model.vocab_size=100": "--model.vocab_size=100: the tokenizer has 268",
  "--samples.prompts=a_long_prompt_of_30_characters": "31 tokens, which",
  "--init_from=nowhere": "--init_from=nowhere: holds no trained run",
  "--data.validation=0": "--validation.every=0",
  "--data.length=32 --data.validation=0.99": "--data.length=32: longer than",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_setting(wrong, tmp_path):
  flags = command.train_flags(tmp_path)
  said = refused(tmp_path, "train", *flags, *wrong.split())
  assert WRONG[wrong] in said


def test_mutant_an_experiment_without_mistakes_gets_further(tmp_path):
  """`refused` is not blind: without a mistake the claim is held."""
  flags = command.train_flags(tmp_path)
  with pytest.raises(AssertionError):
    refused(tmp_path, "show", *flags)


def test_files_for_a_source_that_reads_none(tmp_path):
  its = dataclasses.replace(command.EXPERIMENT, data=Text())
  flag = "--data.sources.0.paths=a.txt"
  said = refused(tmp_path, "show", flag, experiment=its)
  assert "--data.sources.0 reads no files; sources=(...) of a copy" in said


@pytest.mark.parametrize(
  "args,said",
  [
    ([], "no verb; expected one of train, plan,"),
    (["trian"], "unknown verb 'trian'; did you mean train?"),
    (["--steps=3"], "no verb"),
    (["train", "evaluate"], "unexpected 'evaluate' after train"),
  ],
)
def test_verbs(args, said, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert said in refused(tmp_path, *args)
  assert not list(tmp_path.iterdir())


def test_a_vocabulary_larger_than_the_corpus_supports(tmp_path):
  flags = command.train_flags(tmp_path)
  for size, want in ((9000, "the corpus supports at most"), (100, "268 ids")):
    flag = f"--tokenizer.vocab_size={size}"
    said = refused(tmp_path, "train", *flags, flag, experiment=command.PIECES)
    assert f"{flag}: " in said and want in said


def workdir(path):
  return [f"--workdir={path}"]


def test_a_work_folder_that_cannot_be_one(tmp_path, monkeypatch):
  path = command.text_file(tmp_path)
  flags = command.train_flags(tmp_path, path)[1:]
  for where in (path, path / "inside", path / "a/b"):
    said = refused(tmp_path, "train", f"--workdir={where}", *flags)
    assert f"--workdir={where}: " in said and "Not a directory" in said
  other = tmp_path / "run"
  other.mkdir()
  (other / "thesis.txt").write_text("dear")
  said = refused(tmp_path, "train", f"--workdir={other}", *flags)
  assert "holds files, but no run; name an empty folder" in said
  (other / "thesis.txt").unlink()

  def no(path, value):
    raise PermissionError(13, "Permission denied", str(path))

  monkeypatch.setattr(claim.files, "write_json", no)
  said = refused(tmp_path, "train", f"--workdir={other}", *flags)
  assert f"--workdir={other}: cannot be written (Permission denied)" in said


@pytest.mark.parametrize("verb", ["evaluate", "generate"])
def test_no_run_to_use(verb, tmp_path):
  run = tmp_path / "run"
  flags = [verb, f"--workdir={run}"] + ["--prompt=a"] * (verb == "generate")
  assert "holds no run; train one first" in refused(tmp_path, *flags)
  run.mkdir()
  assert "holds no run; train one first" in refused(tmp_path, *flags)
  for broken, want in (("{", "not JSON"), ("{}", "not the settings of a run")):
    (run / "experiment.json").write_text(broken)
    assert want in refused(tmp_path, *flags)
  about = {"name": "smallest", "settings": config.to_json(command.EXPERIMENT)}
  (run / "experiment.json").write_text(json.dumps(about))
  assert "holds no checkpoint; train first" in refused(tmp_path, *flags)
  # A checkpoint's name and list of files are enough to get past that.
  (run / "checkpoints/00000004").mkdir(parents=True)
  (run / "checkpoints/00000004/files.json").write_text("{}")
  said = refused(tmp_path, *flags, "--checkpoint_step=7")
  assert f"--checkpoint_step=7: {run} holds 4" in said
  assert "--checkpoint_step" in refused(
    tmp_path, *flags, "--checkpoint_step=-4"
  )


def test_flags_that_a_run_cannot_read(tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  about = {"name": "smallest", "settings": config.to_json(command.EXPERIMENT)}
  (run / "experiment.json").write_text(json.dumps(about))
  say = lambda flag: refused(
    tmp_path, "evaluate", f"--workdir={run}", flag, experiment=command.PIECES
  )
  flag = "--tokenizer.vocab_size"
  assert f"{flag}: the run in {run} has no such setting" in say(f"{flag}=300")


def test_prompts(tmp_path):
  path = tmp_path / "prompts.txt"
  flags = ["generate", f"--workdir={tmp_path / 'run'}"]
  (tmp_path / "run").mkdir()
  about = {"name": "smallest", "settings": config.to_json(command.EXPERIMENT)}
  (tmp_path / "run/experiment.json").write_text(json.dumps(about))
  assert "give --prompt or --prompts_file" in refused(tmp_path, *flags)
  flag = f"--prompts_file={path}"
  said = refused(tmp_path, *flags, flag)
  assert f"{flag}: cannot be read (No such file" in said
  path.write_bytes(b"")
  assert f"{flag}: the file is empty" in refused(tmp_path, *flags, flag)
  path.write_bytes(b"a\xff")
  assert f"{flag}: not UTF-8 at byte 1" in refused(tmp_path, *flags, flag)
  path.write_bytes(b"a\n\nb\n")
  assert f"{flag}: line 2 is empty" in refused(tmp_path, *flags, flag)


@pytest.fixture(name="folder")
def run_that_has_ended(tmp_path, tmp_path_factory):
  """A folder with text, cache and run, that names its own text."""
  there = command.trained(tmp_path_factory)
  folder = shutil.copytree(there, tmp_path / "copy")
  path = folder / "run/experiment.json"
  about = json.loads(path.read_text())
  about["settings"]["data"]["sources"][0]["paths"] = [str(folder / "text.txt")]
  path.write_text(json.dumps(about))
  return folder


def test_a_run_whose_text_has_changed_cannot_go_on(folder):
  """The position in it would be one in another text."""
  flags = command.train_flags(folder, folder / "text.txt")
  command.text_file(folder, lines=[*command.LINES, "one more"])
  said = refused(folder, "train", *flags, "--steps=3")
  assert "the text is not the one that this run began with" in said
  # Evaluating on other text is no mistake.
  said = command.call("evaluate", flags[0], "--novalidation.baselines")
  assert said.code == 0, said.err
  command.text_file(folder)
  assert command.call("train", *flags, "--steps=3").code == 0


def test_a_run_whose_tokenizer_is_gone_cannot_go_on(folder):
  flags = command.train_flags(folder, folder / "text.txt")
  shutil.rmtree(folder / "run/tokenizer")
  for verb in (["train", *flags], ["evaluate", flags[0]]):
    said = refused(folder, *verb)
    assert "run/tokenizer: holds no whole tokenizer" in said


@pytest.mark.parametrize(
  "wrong,want",
  [
    (
      ["--prompt=" + "x" * 40],
      "41 tokens, which with --samples.max_new_tokens",
    ),
    (["--prompt=a", "--prompt=" + "x" * 40], "is longer than --model.max"),
    (["--prompt=a\udcff"], "half of a surrogate pair"),
    (["--prompt=a", "--samples.max_new_tokens=31"], "--model.max_length=32"),
    (["--prompt=a", "--checkpoint_step=1"], "--checkpoint_step=1: "),
    (["--prompt=a", "--checkpoint_step=x"], "must be a whole number"),
    (["--prompt=a", "--model.num_layers=2"], "is of another model"),
  ],
)
def test_what_a_run_cannot_say(wrong, want, folder):
  run = folder / "run"
  assert want in refused(folder, "generate", f"--workdir={run}", *wrong)


def test_a_split_that_is_not(folder):
  flags = ["evaluate", f"--workdir={folder / 'run'}"]
  say = lambda split: refused(folder, *flags, f"--validation.split={split}")
  assert "=tset: one of train, validation, test" in say("tset")
  assert "the test split is empty: raise --data.test" in say("test")


def test_nothing_is_done_before_the_cheap_checks(tmp_path, monkeypatch):
  """Minutes of preparing must not come before a mistake that can be seen."""
  monkeypatch.setattr(build, "run", lambda *_: pytest.fail("too late"))
  flags = command.train_flags(tmp_path)
  for wrong in ("--data.length=64", "--batch_size=12", "--mesh.data=16"):
    refused(tmp_path, "train", *flags, wrong)


@pytest.mark.parametrize(
  "args,code,said",
  [
    (["train", "--stepz=3"], 2, "unknown flag --stepz; did you mean --steps?"),
    (["train", "--mesh.data=3"], 2, "needs 3 devices, this machine has 1"),
    (["evaluate"], 2, "--workdir=runs/pretrain_tiny_stdlib: holds no run"),
    (["train", "--steps=3", "|head"], 2, "unexpected '|head' after train"),
  ],
)
def test_the_process_does_exactly_this(args, code, said, tmp_path):
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  environment["PYTHONPATH"] = str(ROOT)
  done = subprocess.run(
    [sys.executable, "-m", "experiments.pretrain_tiny_stdlib", *args],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == code
  assert done.stderr.splitlines()[-1].startswith("error: ")
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert said in done.stderr and not done.stdout
  assert not list(tmp_path.iterdir())


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
  if shutil.which("bash") is None:
    pytest.skip("no shell")
  done = subprocess.run(
    [
      "bash",
      "-c",
      f"{sys.executable} -m experiments.pretrain_tiny_stdlib --help | head -1",
    ],
    cwd=tmp_path,
    env=dict(os.environ, PYTHONPATH=str(ROOT)),
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.stdout.startswith("A small decoder") and not done.stderr


def test_a_package_that_a_machine_lacks_is_named(tmp_path, monkeypatch):
  """Machines with JAX alone train on arrays, without TensorBoard."""
  for name in ("tensorboardX", "tensorflow_datasets", "grain"):
    monkeypatch.setitem(sys.modules, name, None)
  run = ("train", f"--workdir={tmp_path / 'run'}")
  arrays = dataclasses.replace(
    command.EXPERIMENT, data=Arrays(length=16, random_size=1000)
  )
  board = "--log.tensorboard=true"
  said = refused(tmp_path, *run, board, experiment=arrays)
  assert said == (
    "error: tensorboardX is not installed; --log.tensorboard=false does without"
  )
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
  text = f"--data.sources.0.paths={command.text_file(tmp_path)}"
  said = refused(tmp_path, *run, text)
  assert "data=Arrays(...) does without" in said
  assert command.call(*run, experiment=arrays).code == 0
