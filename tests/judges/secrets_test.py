"""The key of a judge behind an address is sent, and never told."""

import contextlib
import io
import traceback

import pytest

from llm_jax.contracts import Question
from llm_jax.judges import http
from llm_jax.judges.endpoint import ByEndpoint, Endpoint
from tests.judges.asking import fails, TWO
from tests.judges.server import chat, longer, SaidError, Server

KEY = "sk-0123456789abcdef"


def leaks(text):
  return any(KEY[i : i + 6] in text for i in range(len(KEY) - 5))


ECHOES = [
  SaidError(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()),
  SaidError(401, f"bad key {KEY[:9]}...".encode()),
  SaidError(500, f"bad key {KEY}".encode()),
  SaidError(200, chat(f'{{"better": "A", "reason": "{KEY}"}}')),
  SaidError(200, chat(f'{{"better": "A", "reason": "\\u0073{KEY[1:]}"}}')),
  SaidError(302, KEY.encode(), headers={"Location": "http://127.0.0.1:9/x"}),
  SaidError(200, KEY.encode()),
]


@pytest.mark.parametrize("said", ECHOES, ids=range(len(ECHOES)))
def test_the_key_is_sent_and_never_told(ask, said, tmp_path, monkeypatch):
  monkeypatch.setenv("JUDGE_KEY", KEY + "\n")

  def script(n, shown):
    if n < 2:
      return longer(n, shown)
    raise said

  out = io.StringIO()
  with Server(script) as server, contextlib.redirect_stderr(out):
    ask(server, [TWO], key="JUDGE_KEY", concurrency=1)
    other = Question((("user", "other"),), TWO.completions)
    told = fails(ask, server, [other], key="JUDGE_KEY", concurrency=1)
    assert all(
      h["Authorization"] == f"Bearer {KEY}" for _, h, _ in server.requests
    )
  assert not any(map(leaks, told)) and not leaks(out.getvalue())
  files = [p for p in tmp_path.rglob("*") if p.is_file()]
  assert files and not any(leaks(p.read_text()) for p in files)
  # Mutant: a server's words are repeated as they are.
  if said.status in (401, 500):
    monkeypatch.setattr(http, "hidden", lambda text, key: text)
    with Server(script) as server:
      server.requests += [None] * 2
      assert leaks(fails(ask, server, [other], key="JUDGE_KEY")[0])


def test_a_placeholder_is_no_secret(ask, monkeypatch):
  monkeypatch.setenv("JUDGE_KEY", "EMPTY")
  with Server(lambda *_: '{"better": "tie", "reason": "EMPTY"}') as server:
    (found,) = ask(server, [TWO], key="JUDGE_KEY")
    assert found.scores == (0, 0)
    assert server.requests[0][1]["Authorization"] == "Bearer EMPTY"


@pytest.mark.parametrize("value", ["", "  ", "sk-1\nsk-2", "sk\u20ac", "a b"])
def test_a_bad_key_is_told_without_its_value(value, monkeypatch):
  monkeypatch.setenv("JUDGE_KEY", value)
  with pytest.raises(ValueError, match="--judge.key=JUDGE_KEY: ") as e:
    ByEndpoint(Endpoint(model="m", key="JUDGE_KEY"))
  shown = "".join(traceback.format_exception(e.value))
  assert not value.strip() or value not in shown


@pytest.mark.parametrize("key", [KEY, "hf_abcdefgh", "my key", ""])
def test_a_key_given_as_a_setting_is_refused_and_not_repeated(key):
  with pytest.raises(ValueError, match="never the key itself") as e:
    Endpoint(model="m", key=key)
  assert not key or key not in str(e.value)


@pytest.mark.parametrize(
  "url", ["localhost:8000", "ftp://x", "http://", "user:secret@host/v1"]
)
def test_an_address_that_is_none_is_refused(url):
  with pytest.raises(ValueError, match="--judge.url=.*expected http") as e:
    Endpoint(url=url)
  assert "secret" not in str(e.value)


@pytest.mark.parametrize(
  "url", ["https://user:secret@host/v1", "https://host/v1?key=secret"]
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(url):
  with pytest.raises(ValueError, match="without user, password or query") as e:
    Endpoint(url=url)
  assert "secret" not in str(e.value)
