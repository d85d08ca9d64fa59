"""What all processes must have in common, and where JAX finds them."""

import dataclasses
import pathlib
import sys
from unittest import mock

import pytest

from llm_jax import cli, joining
from llm_jax.rollcall import disagreement, Place
from tests import command

ABOUT = joining.about(command.EXPERIMENT, "train", {})


def differ(other, monkeypatch=None):
  """What is said where one of three runs another thing."""
  abouts = [ABOUT, other, ABOUT]
  return disagreement(
    [{"index": i, "host": "h", "about": a} for i, a in enumerate(abouts)]
  )


def test_settings_verbs_and_flags_are_the_same_in_all():
  assert differ(joining.about(command.EXPERIMENT, "train", {})) == ""
  change = lambda **changes: joining.about(
    dataclasses.replace(command.EXPERIMENT, **changes), "train", {}
  )
  assert "process 1 (h) has --steps: 3 there, 2 elsewhere" in differ(
    change(steps=3)
  )
  assert "verb: 'plan' there" in differ(
    joining.about(command.EXPERIMENT, "plan", {})
  )
  flagged = joining.about(command.EXPERIMENT, "train", {"judge": "a"})
  assert "--judge: 'a' there, None elsewhere" in differ(flagged)
  # Each host has its own cache.
  data = dataclasses.replace(command.EXPERIMENT.data, cache="/elsewhere")
  assert differ(change(data=data)) == ""


def test_code_and_versions_are_the_same_in_all(tmp_path, monkeypatch):
  name = "llm_jax/ops/attention.py"
  assert f"{name}: 'other' there" in differ(ABOUT | {name: "other"})
  own = pathlib.Path(joining.__file__).parent
  assert {f"llm_jax/{p.relative_to(own)}" for p in own.rglob("*.py")} <= set(
    ABOUT
  )
  program = tmp_path / "tiny.py"
  main = sys.modules["__main__"]
  monkeypatch.setattr(main, "__file__", str(program), raising=False)
  digests = []
  for text in ("a = 1", "a = 2", "a = 1"):
    program.write_text(text)
    digests.append(joining._code()["tiny.py"])
  assert digests[0] == digests[2] != digests[1]
  with mock.patch.object(joining.metadata, "version", lambda name: "0"):
    other = joining.about(command.EXPERIMENT, "train", {})
  assert "jax: '0' there" in differ(other)
  monkeypatch.setenv("LIBTPU_INIT_ARGS", "--a=b")
  other = joining.about(command.EXPERIMENT, "train", {})
  assert "LIBTPU_INIT_ARGS: '--a=b' there" in differ(other)


def test_where_a_cluster_says_that_it_is(monkeypatch):
  with pytest.raises(ValueError, match="--distributed: JAX finds no cluster"):
    joining._found(1)
  for name, value in {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[003-007]",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
  }.items():
    monkeypatch.setenv(name, value)
  place, devices = joining._found(1)
  port = 7 + 65535 - 2**12 + 1
  assert place == Place(f"node003:{port}", 5, 3) and devices == [0]


@pytest.mark.parametrize(
  "said,of_runtime,lost",
  [
    ("UNKNOWN: Gloo AllGather failed: Connection reset by peer", True, True),
    ("UNAVAILABLE: Socket closed", True, True),
    ("INTERNAL: Mosaic failed to compile", True, False),
    ("--batch_size=3: not divisible", False, False),
    ("runs/a: Connection refused", False, False),
  ],
)
def test_failures_of_another_process(said, of_runtime, lost, monkeypatch):
  for processes in (None, 1, 2):
    joined = [Place("a:1", processes, 0)] if processes else []
    monkeypatch.setattr(joining, "_joined", joined)
    several = processes == 2
    assert joining.is_of_runtime(ValueError(said)) == (several and of_runtime)
    assert joining.is_lost(ValueError(said)) == (several and lost)


@pytest.mark.parametrize(
  "error,told",
  [
    (
      # As JAX says it where an earlier run is still there.
      RuntimeError(
        "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use"
        " by process with pid 2718466. Not attempting to load libtpu.so in this"
        " process. (set JAX_PLATFORMS='' to automatically choose an available"
        " backend)"
      ),
      "; end that process: `ps -fp 2718466` shows it",
    ),
    (
      RuntimeError(
        "Unable to initialize backend 'cuda': CUDA_ERROR_OUT_OF_MEMORY"
      ),
      "; another process may hold them: `nvidia-smi`, or",
    ),
    (
      RuntimeError("Unable to initialize backend 'tpu': no libtpu.so\nmore"),
      "cannot be had: Unable to initialize backend 'tpu': no libtpu.so",
    ),
    (AssertionError(), "JAX_PLATFORMS=cpu: there is none here"),
  ],
)
def test_devices_that_cannot_be_had_are_told_in_a_line(error, told):
  with mock.patch("jax.devices", side_effect=error):
    with pytest.raises(ValueError, match="the devices of .* cannot be") as said:
      joining.start_devices()
  assert told in str(said.value) and "\n" not in str(said.value)


def test_any_other_error_of_the_runtime_is_left_as_it_is():
  joining.start_devices()
  with mock.patch("jax.devices", side_effect=RuntimeError("what")):
    with pytest.raises(RuntimeError, match="what"):
      joining.start_devices()


@pytest.mark.parametrize("error", [KeyError("a mistake of ours"), None])
def test_a_mistake_is_told_and_then_left_as_any_other_end(
  error, monkeypatch, capsys
):
  """Python would tell it, too, and then wait for the other processes."""

  def main(*args):
    if error is not None:
      raise error
    return 3

  left = []
  monkeypatch.setattr(cli, "main", main)
  monkeypatch.setattr(joining, "leave", left.append)
  cli.run(command.EXPERIMENT)
  assert left == [3 if error is None else 1]
  said = capsys.readouterr().err
  assert ("KeyError: 'a mistake of ours'" in said) == (error is not None)
  assert ("Traceback" in said) == (error is not None)


def test_what_is_no_mistake_is_not_caught(monkeypatch):
  def main(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(cli, "main", main)
  with pytest.raises(KeyboardInterrupt):
    cli.run(command.EXPERIMENT)
