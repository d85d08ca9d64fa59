"""A judge behind an address of this machine, with a home of its own."""

import pytest

from llm_jax.judges.endpoint import ByEndpoint, Endpoint


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def ask(tmp_path):
  """(server, questions, **settings) -> verdicts."""

  def ask(server, questions, **more):
    given = {
      "url": server.url,
      "model": "judge",
      "retries": 2,
      "wait": 0.0,
      "timeout": 5.0,
      "cache": str(tmp_path / "answers"),
    }
    return list(ByEndpoint(Endpoint(**given | more))(questions))

  return ask


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
