import io
import subprocess
import sys
import time

import pytest
from rich.console import Console

from llm_jax.reporting import progress


def _terminal(monkeypatch, is_terminal, width=120):
  out = io.StringIO()
  console = Console(file=out, force_terminal=is_terminal, width=width)
  monkeypatch.setattr(progress, "_console", console)
  return out


@pytest.mark.parametrize("is_terminal", [True, False])
def test_items_pass_through_in_order(monkeypatch, is_terminal):
  _terminal(monkeypatch, is_terminal)
  assert list(progress.progress(iter("abc"), 3, "reading")) == list("abc")


def test_an_error_of_the_items_is_not_swallowed(monkeypatch):
  _terminal(monkeypatch, False)

  def items():
    yield 1
    raise KeyError("broken")

  with pytest.raises(KeyError):
    list(progress.progress(items(), 2, "reading"))


def test_a_bar_says_what_and_how_much(monkeypatch):
  out = _terminal(monkeypatch, True)
  bar = progress.TrainingBar(done=5, until=20)
  bar.step(2.5, 1234.0, 0.25)
  bar._bar._rich.refresh()
  bar.close()
  text = out.getvalue()
  assert "6/20" in text  # five steps were done before this start
  assert "loss 2.5000" in text and "1,234 tokens/s" in text
  assert "MFU 25.0%" in text


@pytest.mark.parametrize("until", [600, 100_000])
def test_no_number_of_the_training_bar_is_cut_at_80_columns(monkeypatch, until):
  out = _terminal(monkeypatch, True, width=80)
  bar = progress.TrainingBar(done=until - 1, until=until)
  bar.step(2.0625, 7236.0, None)
  bar._bar._rich.refresh()
  bar.close()
  text = out.getvalue()
  assert f"{until}/{until}" in text and "tokens/s  MFU unknown" in text
  assert "left" in text and "\u2026" not in text


def test_a_wait_of_unknown_length_counts_nothing(monkeypatch):
  out = _terminal(monkeypatch, True)
  with progress.waiting("compiling"):
    pass
  assert "compiling" in out.getvalue() and " 0 " not in out.getvalue()


def test_without_a_terminal_lines_appear_during_a_wait(monkeypatch, capfd):
  _terminal(monkeypatch, False)
  real = progress.threading.Event.wait
  asked = []

  def wait(self, timeout=None):
    asked.append(timeout)
    return real(self, 0.01)

  monkeypatch.setattr(progress.threading.Event, "wait", wait)
  bar = progress.TrainingBar(done=0, until=20)
  bar.step(2.5, 1234.0, None)
  time.sleep(0.1)
  bar.close()
  bar._bar._beat.join()
  said = capfd.readouterr().err
  assert "training: 1/20" in said and "MFU unknown" in said
  assert min(t for t in asked if t is not None) <= 3.0  # "more than 3 seconds"


def test_nothing_is_said_after_the_wait(monkeypatch, capfd):
  out = _terminal(monkeypatch, False)
  with progress.waiting("compiling"):
    pass
  assert out.getvalue() == "" and capfd.readouterr().err == ""


def test_square_brackets_are_text(monkeypatch):
  out = _terminal(monkeypatch, False)
  progress.say("[red]loss[/red] 1.25")
  assert out.getvalue() == "[red]loss[/red] 1.25\n"


def test_whoever_listens_hears_what_moves():
  heard = []
  with progress.heard_by(heard.append):
    list(progress.progress(range(3), 3, "reading"))
    with progress.waiting("compiling"):
      pass
  list(progress.progress(range(3), 3, "unheard"))
  assert heard == ["reading"] * 4 + ["compiling"]


def test_nobody_who_reads_is_no_reason_to_end():
  """Rich would end the program, and what it has still to save."""
  code = (
    "import os, sys; from llm_jax.reporting import progress\n"
    "reader, writer = os.pipe(); os.dup2(writer, 2); os.close(reader)\n"
    "os.close(writer)\n"
    "progress.say('unread'); progress.say('again'); print('goes on')"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert "goes on" in done.stdout
