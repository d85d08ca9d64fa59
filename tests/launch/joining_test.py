"""--distributed: processes that a cluster names find each other."""

import os
import socket
import subprocess
import sys

from tests.launch.cases import ROOT

SCRIPT = """
import sys
import jax
from llm_jax import cli
from tests import command
code = cli.main(command.EXPERIMENT, sys.argv, "smallest")
print("joined", code, jax.process_index(), jax.process_count(), flush=True)
"""


def slurm(job, index):
  """What srun says to task `index` of 2 on this machine."""
  return {
    "SLURM_JOB_ID": str(job),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": str(index),
    "SLURM_LOCALID": str(index),
    "SLURM_STEP_NUM_NODES": "1",
  }


def free_job():
  """A job whose port, by JAX's rule, is free."""
  for job in range(os.getpid(), os.getpid() + 2**12):
    with socket.socket() as s:
      if s.connect_ex(("localhost", job % 2**12 + 65535 - 2**12 + 1)):
        return job
  raise AssertionError("no port is free")


def test_tasks_of_srun_are_one_job(tmp_path):
  job = free_job()
  tasks = [
    subprocess.Popen(
      [sys.executable, "-c", SCRIPT, "generate", "--distributed"],
      cwd=tmp_path,
      env=os.environ
      | slurm(job, index)
      | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    said = [task.communicate(timeout=60) for task in tasks]
  finally:
    for task in tasks:
      task.kill()
  for index, (out, err) in enumerate(said):  # 2: there is no run
    assert f"joined 2 {index} 2" in out, err
