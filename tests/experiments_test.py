"""Every experiment can be planned and says how it is started."""

import importlib
import pathlib

import pytest

from tests import command

FOLDER = pathlib.Path(__file__).parent.parent / "experiments"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_planned(name):
  module = importlib.import_module(f"experiments.{name}")
  said = command.call(
    "plan", "--batch_size=64", experiment=module.EXPERIMENT, name=name
  )
  assert said.code in (0, 3), said.err
  assert "parameters" in said.out
  assert f"python -m experiments.{name} train" in module.__doc__
