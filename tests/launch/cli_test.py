"""Flags: which target reads which, what is refused, what a dry run does."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import accelerators, cli, command, rehearsal, revision, settings
from launch.settings import READ_BY, Settings, TARGETS
from tests.launch import cases
from tests.launch.running import Machine

VM = "tpu-vm --name=a --topology=v5p-16 --zone=z --bucket=bucket"
RUN = "-- experiments.pretrain_tiny_stdlib train"


def refused(capsys, text):
  """The one line that is said."""
  code = cli.main(["launch", *text.split()])
  out, err = capsys.readouterr()
  assert code == 2 and out == ""
  assert err.startswith("error: ") and err.count("\n") == 1
  return err


@pytest.mark.parametrize(
  "given,said",
  [
    ("--name=Run", "--name=Run: must be 1 to 40 lower-case letters, digits"),
    ("--name=1run", "a letter first and no hyphen last"),
    ("--name=run-", "a letter first and no hyphen last"),
    ("--name=my_run", "--name=my_run: must be"),
    (f"--name=a{'b' * 40}", "1 to 40"),
    ("--name=", "--name: none given; tpu-vm needs it"),
    ("--zone=", "--zone: none given; tpu-vm needs it"),
    ("--topology=v5p-100", "--topology=v5p-100"),
    ("--topology=v5z-16", "did you mean v5"),
    ("--topology=h100-8", "is no TPU; slurm has GPUs"),
    ("--topology=tpu7x-128", "is had by gke only, not by tpu-vm"),
    ("--bucket=gs://b", "--bucket=gs://b: must be the name of a bucket"),
    ("--bucket=", "--bucket: none given, nor a --workdir after --"),
    ("--retries=-1", "--retries=-1: must be a whole number, from 0 to 10000"),
    ("--spot --reserved", "--spot and --reserved: give one of them"),
    ("--env=A", "--env=A: must be NAME=VALUE"),
    (
      "--slices=2",
      "--slices: read by queued-resource, gke only, not by tpu-vm",
    ),
    ("--partition=x", "--partition: read by slurm only, not by tpu-vm"),
    ("--processes=2", "--processes: read by local only, not by tpu-vm"),
    ("--topolgy=v4-8", "unknown flag --topolgy; did you mean --topology?"),
    ("--zone=a --zone=b", "--zone: given twice"),
    ("b", "unexpected 'b'"),
    ("--project=", "--project=: no value given"),
    ("--bucket=a..b", "--bucket=a..b: must be the name of a bucket"),
    ("--bucket=bucket/../other", "must be the name of a bucket"),
    ("--retries=99999999999", "must be a whole number, from 0 to 10000"),
    ("--env=A=1,B=2,A=3", "--env=A: given twice"),
  ],
)
def test_wrong(given, said, capsys):
  flags = VM.split()
  for flag in given.split():
    name = flag.split("=")[0]
    if given.count(name) == 1:
      flags = [f for f in flags if not f.startswith(f"{name}=")]
  assert said in refused(capsys, f"{' '.join(flags)} {given} --dirty {RUN}")


@pytest.mark.parametrize(
  "words,said",
  [
    ("", "nothing to run; give it after --: experiments.NAME VERB"),
    ("train", "train: is no experiment"),
    ("experiments.pretrain_tiny_stdlb train", "did you mean pretrain_tiny_st"),
    ("experiments.xyzzy train", "experiments.xyzzy: there is none"),
    ("experiments.grpo_tiny_stdlib", "experiments.grpo_tiny_stdlib: no verb"),
    ("experiments.grpo_tiny_stdlib --steps=1", "no verb"),
    (
      "experiments.grpo_tiny_stdlib train --coordinator=a:1",
      "--coordinator: is given by tpu-vm; leave it out",
    ),
    ("experiments.grpo_tiny_stdlib train --check=0", "--check: is given by"),
    ("experiments.grpo_tiny_stdlib train --help", "--help: needs no launch"),
    # What the experiment itself says, of its flags and of those machines.
    ("experiments.grpo_tiny_stdlib train --step=2", "did you mean --steps?"),
    ("experiments.grpo_tiny_stdlib train --mesh.fsdp=3", "are 8 devices, and"),
    (
      "experiments.grpo_tiny_stdlib train --workdir=gs://a/b",
      "--workdir: is given by --bucket and --name; leave one out",
    ),
  ],
)
def test_wrong_words(words, said, capsys):
  assert said in refused(capsys, f"{VM} --dirty -- {words}")


@pytest.mark.parametrize(
  "text,said",
  [
    (RUN, "no target; expected one of local, tpu-vm, queued-resource"),
    (f"tpu {RUN}", "unknown target 'tpu'; did you mean tpu-vm?"),
    (f"gke --name=a --topology=v4-8 --zone=z {RUN}", "--cluster: none given"),
    (f"slurm --name=a --shared=/a --venv= {RUN}", "--venv=: no value given"),
    (f"slurm --name=a {RUN}", "--shared: none given; slurm needs it"),
    (f"slurm --name=a --shared=/a {RUN}", "--container or --venv: one of"),
    (
      f"slurm --name=a --shared=a --venv=/v {RUN}",
      "--shared=a: must be a whole",
    ),
    (
      f"slurm --name=a --shared=/a --venv=/v --time=1d {RUN}",
      "--time=1d: must be minutes",
    ),
    (
      f"slurm --name=a --shared=/a --venv=/v --partition=a;b {RUN}",
      "--partition=a;b: must be a name",
    ),
    (f"tpu-vm --retries {RUN}", "--retries: no value given"),
    (f"local --dirty {RUN}", "--dirty: read by tpu-vm, queued-resource, gke"),
  ],
)
def test_wrong_for_a_target(text, said, capsys):
  assert said in refused(capsys, text)


OTHER = {
  "name": "run-2",
  "topology": "v6e-64",
  "slices": 3,
  "zone": "us-west1-b",
  "project": "another",
  "bucket": "another",
  "runtime": "v2-other",
  "network": "another",
  "service_account": "me@x.com",
  "cluster": "others",
  "priority": "low",
  "container": "another",
  "shared": "/other",
  "venv": "/other",
  "nodes": 5,
  "gpus_per_node": 3,
  "cpus_per_gpu": 5,
  "partition": "other",
  "account": "other",
  "time": "1:00:00",
  "grace": 77,
  "retries": 5,
  "pause": 5,
  "env": ("A=b",),
  "processes": 3,
  "devices": 4,
  "restart": 5,
  "port": 6789,
  "gpus": 2,
}


@pytest.mark.parametrize("target", TARGETS)
def test_every_setting_is_read_by_whom_it_says(target):
  _, given, words = cases.CASES[target]
  before = cases.render(target, given, words)
  for name, readers in READ_BY.items():
    if name in ("go", "dirty"):
      continue  # these are not the scripts'
    value = OTHER.get(name, not getattr(given, name))
    changed = dataclasses.replace(given, **{name: value})
    if target == "slurm" and name == "container":
      changed = dataclasses.replace(changed, venv=None)
    if name == "gpus":  # CPUs are simulated without
      changed = dataclasses.replace(changed, devices=0)
    if name == "spot":
      changed = dataclasses.replace(changed, reserved=False)
    if name == "reserved" and given.reserved:
      changed = dataclasses.replace(given, reserved=False)
    text = cli.RENDER[target](changed, words, cases.REVISION)
    assert (text != before) == (target in readers), name


@pytest.mark.parametrize("name", ["zone", "network", "cluster", "container"])
@pytest.mark.parametrize(
  "word", ["a b", "a\nb", "\N{LATIN SMALL LETTER A WITH ACUTE}"]
)
def test_words_are_words(name, word):
  _, given, _ = cases.CASES["gke"]
  changed = dataclasses.replace(given, **{name: word})
  with pytest.raises(ValueError, match=f"(?s)--{name}=.*: must be one word"):
    settings.check(changed, "gke")


def test_every_setting_is_one_of_some_target():
  assert set(READ_BY) == {f.name for f in dataclasses.fields(Settings)}


@pytest.mark.parametrize("target", TARGETS)
def test_help_lists_what_the_target_reads(target, capsys):
  assert cli.main(["launch", target, "--help"]) == 0
  said = capsys.readouterr().out
  for name, readers in READ_BY.items():
    assert (f"  --{name}=" in said) == (target in readers), name


def test_help_of_all(capsys):
  assert cli.main(["launch", "--help"]) == 0
  said = capsys.readouterr().out
  assert all(target in said for target in TARGETS)


def test_a_dry_run_prints_the_script_and_does_nothing(capsys, monkeypatch):
  monkeypatch.setattr(revision, "of", lambda root, dirty: cases.REVISION)
  monkeypatch.setattr(cli, "run", None)
  target, given, words = cases.CASES["tpu-vm"]
  flags = ["--name=run-1", "--topology=v5p-16", "--zone=us-east5-a"]
  ours = ["launch", target, *flags, "--bucket=my-bucket", "--", *words]
  assert cli.main(ours) == 0
  out, err = capsys.readouterr()
  assert out == (cases.GOLDENS / "tpu-vm.sh").read_text()
  assert err == "launch: nothing was done; --go does it\n"


def test_go_runs_that_script_and_hands_its_code_on(tmp_path, monkeypatch):
  ran = []
  monkeypatch.setattr(cli.rehearsal, "hold", lambda *given: None)
  monkeypatch.setattr(revision, "of", lambda root, dirty: cases.REVISION)
  monkeypatch.setattr(cli, "run", lambda text, root: ran.append(text) or 143)
  target, given, words = cases.CASES["tpu-vm"]
  flags = ["--name=run-1", "--topology=v5p-16", "--zone=us-east5-a"]
  ours = ["launch", target, *flags, "--bucket=my-bucket", "--go", "--", *words]
  assert cli.main(ours) == 143
  assert ran == [(cases.GOLDENS / "tpu-vm.sh").read_text()]


def test_run_is_bash_on_that_text(tmp_path, capfd):
  text = '(\nset -euo pipefail\npwd\nexit "$((100 + 23))"\n)\n'
  assert cli.run(text, tmp_path) == 123
  assert capfd.readouterr().out == f"{tmp_path}\n"


def test_interrupted_it_waits_for_what_the_script_has_to_say(tmp_path):
  # A command that bash just begins may swallow the key: these are short.
  text = (
    "trap 'sleep 0.4; echo told; exit 130' INT; echo begun;"
    " for i in {1..200}; do sleep 0.1; done"
  )
  code = f"from launch import cli; print(cli.run({text!r}, '.'))"
  launch = subprocess.Popen(
    [sys.executable, "-c", code],
    cwd=cases.ROOT,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  assert launch.stdout.readline() == "begun\n"
  time.sleep(0.5)  # until it waits for what it has begun
  os.killpg(launch.pid, signal.SIGINT)
  said, _ = launch.communicate(timeout=15)
  assert said == "told\n130\n"


def test_pasted_into_a_shell_it_is_the_same_and_the_shell_goes_on(tmp_path):
  machine = Machine(tmp_path)
  machine.says(outcomes="2")
  text = machine.script("tpu-vm", cases.CASES["tpu-vm"][1])
  done = subprocess.run(
    ["bash", "--norc", "--noediting", "-i", "-o", "histexpand"],
    input=f'{text}echo "still here after $?"\n',
    cwd=machine.repository,
    env=machine.environment(),
    capture_output=True,
    text=True,
    timeout=60,
    start_new_session=True,
  )
  assert "still here after 2" in done.stdout, done.stderr
  assert machine.starts() == [1, 1]


def test_a_start_loads_neither_jax_nor_any_experiment():
  script = (
    "import json, sys; from launch import cli\n"
    f"cli.main(['launch', *{VM.split()!r}, '--dirty', *{RUN.split()!r}])\n"
    "print(json.dumps(sorted(sys.modules)))"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=dict(os.environ, PYTHONPATH=str(cases.ROOT)),
    capture_output=True,
    text=True,
    check=True,
  )
  loaded = set(json.loads(done.stdout.splitlines()[-1]))
  assert "launch.tpu_vm" in loaded
  assert not loaded & {"jax", "numpy", "flax", "experiments"}


def git(folder, *words):
  return subprocess.run(
    ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words],
    cwd=folder,
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()


def test_the_revision_is_committed_or_dirty(tmp_path):
  root = Machine(tmp_path).repository
  head = git(root, "rev-parse", "HEAD")
  assert revision.of(root, False) == revision.of(root, True) == head
  (root / "constraints.txt").write_text("changed\n")
  (root / "new.py").write_text("new\n")
  (root / ".gitignore").write_text("*.log\n")
  (root / "a.log").write_text("ignored\n")
  with pytest.raises(ValueError, match=r"not committed, nor are 2 .*--dirty"):
    revision.of(root, False)
  before = git(root, "status", "--porcelain")
  tree = revision.of(root, True)
  assert git(root, "show", f"{tree}:constraints.txt") == "changed"
  names = git(root, "ls-tree", "--name-only", tree).split()
  assert names == [".gitignore", "constraints.txt", "new.py"]
  assert git(root, "status", "--porcelain") == before
  assert git(root, "rev-parse", "HEAD") == head


def test_no_repository(tmp_path):
  with pytest.raises(ValueError, match="no revision to send from"):
    revision.of(pathlib.Path(tmp_path), False)


# xpk 1.16, core/system_characteristics.py: vms_per_slice.
@pytest.mark.parametrize(
  "name,kind,hosts",
  [
    ("v4-8", "v4-8", 1),
    ("v4-32", "v4-32", 4),
    ("v5e-1", "v5litepod-1", 1),
    ("v5e-8", "v5litepod-8", 1),
    ("v5litepod-16", "v5litepod-16", 4),
    ("v5e-256", "v5litepod-256", 64),
    ("v5p-8", "v5p-8", 1),
    ("v5p-128", "v5p-128", 16),
    ("v6e-8", "v6e-8", 1),
    ("v6e-256", "v6e-256", 64),
    ("tpu7x-8", "tpu7x-8", 1),
    ("tpu7x-128", "tpu7x-128", 16),
  ],
)
def test_hosts_of_a_slice(name, kind, hosts):
  assert accelerators.of(name)[:2] == (kind, hosts)


@pytest.mark.parametrize(
  "words,said",
  [
    (["--workdir=gs://a/b"], None),
    (["--workdir", "/disk/b"], None),
    (["--workdir=runs/b"], "--workdir=runs/b: must be a bucket's, or a whole"),
    (["--workdir"], "--workdir=: must be"),
    ([], "--bucket: none given"),
  ],
)
def test_a_run_is_kept_where_it_outlives_the_machines(words, said):
  given = dataclasses.replace(cases.CASES["tpu-vm"][1], bucket="")
  ours = ["experiments.a", "train", *words]
  if said is None:
    assert command.in_bucket(given, ours) == [*ours, "--distributed"]
  else:
    with pytest.raises(ValueError, match=said):
      command.in_bucket(given, ours)


FAILS = "import sys\nprint('one', file=sys.stderr)\nraise KeyError('two')\n"


def test_an_experiment_that_does_not_load_here_is_not_sent(tmp_path):
  (tmp_path / "fails.py").write_text(FAILS)
  with pytest.raises(
    ValueError, match="^fails: does not begin.*KeyError: 'two"
  ):
    rehearsal.hold(["fails", "train"], "0", tmp_path)


@pytest.mark.parametrize(
  "case,there",
  [
    ("local", "8"),
    ("tpu-vm", "1x8"),
    ("queued-resource-slices", "2x8"),
    ("gke-slices", "4x128"),
    ("slurm-container", "64"),
  ],
)
def test_it_is_asked_about_the_machines_it_will_have(case, there):
  target, given, _ = cases.CASES[case]
  assert rehearsal.there(given, target) == there
  one = Settings(processes=1)
  assert rehearsal.there(one, "local") == "0"  # whatever this machine has


def test_output_that_cannot_be_written_is_told(capsys):
  with open("/dev/full", "w") as full, contextlib.redirect_stdout(full):
    assert cli.main(["launch", "--help"]) == 2
    with contextlib.suppress(OSError):
      full.close()
  said = capsys.readouterr().err
  assert said == "error: what it prints: No space left on device\n"


def test_a_reader_that_has_read_enough_is_no_error():
  done = subprocess.run(
    ["bash", "-c", f"{sys.executable} -m launch gke --help | true"],
    cwd=cases.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.stderr == ""


def test_the_fields_of_local_are_settings():
  from launch import local

  names = {f.name for f in dataclasses.fields(local.Local)}
  assert names <= {f.name for f in dataclasses.fields(Settings)}
  settings.check(Settings(), "local")
