"""Scripts run for real, on a machine whose gcloud, xpk and Slurm are fakes."""

import contextlib
import os
import pathlib
import re
import subprocess
import time

from tests.launch import cases

FAKES = pathlib.Path(__file__).parent / "fakes"


class Machine:
  """A folder of a repository, and of what the fakes know."""

  def __init__(self, folder: pathlib.Path, hosts: int = 2):
    self.repository, self.fake = folder / "repository", folder / "fake"
    self.repository.mkdir()
    self.fake.mkdir()
    self._hosts = hosts
    (self.repository / "constraints.txt").write_text("jax==0.10.2\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
      subprocess.run([*git, *words], cwd=self.repository, check=True)
    self.revision = subprocess.run(
      ["git", "rev-parse", "HEAD"],
      cwd=self.repository,
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()

  def says(self, **files: str) -> "Machine":
    """Writes what the fakes read."""
    for name, text in files.items():
      (self.fake / name).write_text(text)
    return self

  def script(self, target: str, given, words=cases.WORDS) -> str:
    text = cases.render(target, given, words)
    return text.replace(cases.REVISION, self.revision)

  def run(self, text: str, shell=("bash",)) -> tuple[int, str]:
    """Exit code, and what was said."""
    file = self.fake / "script.sh"
    file.write_text(text)
    done = subprocess.run(
      [*shell, str(file)],
      cwd=self.repository,
      env=self.environment(),
      capture_output=True,
      text=True,
      timeout=60,
    )
    return done.returncode, done.stdout + done.stderr

  def environment(self) -> dict[str, str]:
    return os.environ | {
      "PATH": f"{FAKES}:{os.environ['PATH']}",
      "FAKE": str(self.fake),
      "HOSTS": str(self._hosts),
    }

  def calls(self, pattern: str = "") -> list[str]:
    """Commands that were called, so far."""
    file = self.fake / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in lines if re.search(pattern, line)]

  def starts(self) -> list[int]:
    """How often the experiment was started, by host."""
    files = sorted((self.fake / "starts").glob("*"))
    return [int(file.read_text()) for file in files if file.name.isdigit()]

  def alive(self) -> list[int]:
    """Processes of experiments that go on, on any host."""
    found = []
    for file in (self.fake / "hosts").glob("*/llm_jax/*/pid"):
      pid = int(file.read_text())
      with contextlib.suppress(OSError):  # it has ended
        if pathlib.Path(f"/proc/{pid}/environ").read_bytes():
          found.append(pid)
    return found

  def end(self) -> None:
    """Ends what is left."""
    for pid in self.alive():
      os.killpg(pid, 9)
    for _ in range(100):
      if not self.alive():
        return
      time.sleep(0.02)
