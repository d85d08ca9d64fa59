"""The scripts, line by line, and what shellcheck says of them."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.launch import cases

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize("case", cases.CASES)
def test_the_script_is_the_one_that_was_reviewed(case, monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)  # which local hands on
  text = cases.render(*cases.CASES[case])
  assert text == (cases.GOLDENS / f"{case}.sh").read_text()


def test_no_golden_is_of_no_case():
  assert {p.stem for p in cases.GOLDENS.iterdir()} == set(cases.CASES)


def said_by_shellcheck(*files):
  """ "" where it has nothing to say; a user's own $ in quotes is meant."""
  beside = pathlib.Path(sys.executable).parent / "shellcheck"
  found = shutil.which("shellcheck") or shutil.which(str(beside))
  if found is None:
    pytest.skip("shellcheck is not installed")
  done = subprocess.run(
    [found, "--shell=bash", "--severity=style", "--exclude=SC2016"]
    + [str(file) for file in files],
    capture_output=True,
    text=True,
  )
  return done.stdout


def test_shellcheck_has_nothing_to_say():
  files = [*cases.GOLDENS.glob("*.sh"), *(HERE / "fakes").iterdir()]
  assert len(files) > 20
  assert said_by_shellcheck(*files) == ""


def inside(text, start):
  """The file that a heredoc writes."""
  return text.split(f"<<'{start}'\n")[1].split(f"\n{start}\n")[0] + "\n"


@pytest.mark.parametrize(
  "case,start", [("tpu-vm-spot", "HOST"), ("slurm-container", "JOB")]
)
def test_nor_of_the_files_that_they_write(case, start, tmp_path):
  text = inside((cases.GOLDENS / f"{case}.sh").read_text(), start)
  file = tmp_path / "inside.sh"
  file.write_text(text)
  assert said_by_shellcheck(file) == ""
  # Mutant: an expansion without quotes.
  file.write_text(text.replace('"${env[@]}"', "${env[@]}"))
  assert "SC2068" in said_by_shellcheck(file)
