"""A judge behind an address: patient, bounded, and silent about its key."""

import contextlib
import dataclasses
import json
import socket
import threading
import time

import pytest

from llm_jax.contracts import Question
from llm_jax.judges import http
from llm_jax.judges.endpoint import ByEndpoint, Endpoint
from tests.judges.asking import fails, PROMPT, TWO
from tests.judges.server import chat, longer, SaidError, Server


def test_pairs_are_asked_both_ways_and_scores_one_by_one(ask):
  questions = [TWO, Question(PROMPT, ("cc", "d", "eee"))]
  with Server(longer) as server:
    found = ask(server, questions)
    assert [v.scores for v in found] == [(-1, 0), (-1, -2, 0)]
    assert all(v.ordinal for v in found)
    assert "1 over 0: it is longer" in found[0].reason
    assert len(server.requests) == 2 + 6
    found = ask(server, questions, ask="scores")
    assert [v.scores for v in found] == [(1, 3), (2, 1, 3)]
    assert not found[0].ordinal and found[0].reason == "0: size; 1: size"
    assert len(server.requests) == 8 + 5


def test_a_server_that_likes_the_first_says_nothing(ask):
  with Server(lambda *_: '{"better": "A"}') as server:
    (found,) = ask(server, [TWO])
  assert found.scores == (0, 0)


def test_what_is_sent(ask):
  with Server(longer) as server:
    ask(server, [TWO], rubric="Be kind.", max_tokens=9, temperature=None)
    path, headers, payload = server.requests[0]
  assert path == "/v1/chat/completions"
  assert payload["model"] == "judge" and payload["max_tokens"] == 9
  assert "temperature" not in payload and "Authorization" not in headers
  system, user = payload["messages"]
  assert system["content"].startswith("Be kind.\n")
  shown = json.loads(user["content"])
  assert shown["question"] == "say"
  assert {shown["answer_A"], shown["answer_B"]} == {"a", "bbb"}


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(ask, status):
  def script(n, shown):
    if n % 2 == 0:
      raise SaidError(status, b'{"error": {"message": "not now"}}')
    return longer(n, shown)

  with Server(script) as server:
    (found,) = ask(server, [TWO], concurrency=1)
    assert found.scores == (-1, 0) and len(server.requests) == 4


def test_tries_are_bounded_and_the_last_failure_is_told(ask):
  def script(n, shown):
    raise SaidError(500, b'{"error": {"message": "on fire"}}')

  with Server(script) as server:
    line, _ = fails(ask, server, concurrency=1)
    assert "no usable answer in 3 tries; the last time it gave status 500" in (
      line
    )
    assert "on fire" in line
    assert len(server.requests) == 3  # and no other question was begun


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_final(ask, status):
  def script(n, shown):
    raise SaidError(status, b'{"error": {"message": "no such model"}}')

  with Server(script) as server:
    line, _ = fails(ask, server, concurrency=1)
    assert f"refused: it gave status {status}: no such model" in line
    assert len(server.requests) == 1


def test_a_slow_server_is_not_waited_for(ask):
  def script(n, shown):
    raise SaidError(wait=3.0, body=chat('{"better": "A"}'))

  with Server(script) as server:
    began = time.monotonic()
    line, _ = fails(ask, server, timeout=0.1, concurrency=1)
    assert time.monotonic() - began < 2
    assert "in 3 tries" in line and "no answer within 0.1 s" in line
    assert len(server.requests) == 3


def test_a_server_that_dribbles_is_not_waited_for():
  with socket.create_server(("127.0.0.1", 0)) as listening:
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"

    def dribble():
      connection, _ = listening.accept()
      connection.recv(2**16)
      with contextlib.suppress(OSError), connection:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(100):
          connection.sendall(b" ")
          time.sleep(0.05)

    threading.Thread(target=dribble, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(http.TryAgainError, match=r"no answer within 0.2 s"):
      http.post(url, {}, None, 0.2)
    assert time.monotonic() - began < 2


def test_a_server_that_is_not_there_is_told(ask):
  with Server(longer) as server:
    pass
  line, _ = fails(ask, server)
  assert "in 3 tries" in line and "it could not be reached" in line


def test_an_answer_cut_short_is_none(ask):
  def script(n, shown):
    raise SaidError(body=chat(longer(n, shown))[:-9])

  with Server(script) as server:
    assert "an answer that is no JSON" in fails(ask, server)[0]


GARBAGE = [
  b"<html>busy</html>",
  b"[]",
  b'{"choices": []}',
  b'{"choices": [{"message": {"content": null}}]}',
  b"\xff\xfe",
  chat("I like both."),
  chat("{A}"),
  chat('{"better": "C"}'),
  chat('{"better": null}'),
  chat('{"better": ["A"]}'),
  chat('["better"]'),
  chat("[" * 100_000),
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_retried_then_told_and_never_kept(ask, body, tmp_path):
  def script(n, shown):
    raise SaidError(body=body)

  with Server(script) as server:
    line, _ = fails(ask, server, concurrency=1)
    assert "in 3 tries; the last time it gave an answer" in line
    assert len(line) < 300 and len(server.requests) == 3
    assert not list(tmp_path.rglob("*.json"))
    server.script = longer  # it has come to its senses
    (found,) = ask(server, [TWO])
    assert found.scores == (-1, 0)


@pytest.mark.parametrize("score", ["11", "0", "true", "NaN", '"7"', "null"])
def test_a_score_outside_the_scale_is_garbage(ask, score):
  with Server(lambda *_: f'{{"score": {score}}}') as server:
    line, _ = fails(ask, server, ask="scores")
    assert "'score' is" in line and "not from 1 to 10" in line


def test_a_model_that_talks_is_told_to_answer(ask):
  def script(n, shown):
    if n == 0:
      return "Well, I think A."
    return f"Sure:\n```json\n{longer(n, shown)}\n```"

  with Server(script) as server:
    (found,) = ask(server, [TWO], concurrency=1)
    assert found.scores == (-1, 0)
    first, again, _ = (payload["messages"] for _, _, payload in server.requests)
  assert again[:2] == first and again[2]["content"] == "Well, I think A."
  assert "one JSON object" in again[3]["content"]


def test_what_a_server_asks_to_wait_is_waited(ask):
  def script(n, shown):
    if n == 0:
      raise SaidError(429, headers={"Retry-After": "1"})
    return longer(n, shown)

  with Server(script) as server:
    began = time.monotonic()
    ask(server, [TWO], concurrency=1)
    assert 1 <= time.monotonic() - began < 3


def test_answers_are_kept_and_asked_once(ask, tmp_path):
  with Server(longer) as server:
    before = ask(server, [TWO])
    assert len(server.requests) == 2
    assert ask(server, [TWO]) == before and len(server.requests) == 2
    # Patience decides nothing.
    assert ask(server, [TWO], retries=7, concurrency=2) == before
    assert len(server.requests) == 2
    count = 2
    for change in (
      {"model": "other"},
      {"rubric": "other"},
      {"temperature": 0.5},
      {"temperature": None},
      {"max_tokens": 9},
      {"ask": "scores"},
      {"url": server.url + "/other"},
    ):
      ask(server, [TWO], **change)
      count += 2
      assert len(server.requests) == count, change
    ask(server, [Question((("user", "other"),), TWO.completions)])
    assert len(server.requests) == count + 2
    # A file that is broken, or of something else, is as none.
    for path in tmp_path.rglob("*.json"):
      path.write_text("{")
    assert ask(server, [TWO]) == before and len(server.requests) == count + 4
    for path in tmp_path.rglob("*.json"):
      path.write_text(json.dumps({"asked": {}, "answer": '{"better": "A"}'}))
    assert ask(server, [TWO]) == before
  assert not list(tmp_path.rglob("*.partial"))


def test_what_was_answered_before_an_error_is_kept(ask):
  questions = [Question((("user", str(i)),), ("a", "bbb")) for i in range(4)]

  def script(n, shown):
    if shown["question"] == "2":
      raise SaidError(400)
    return longer(n, shown)

  with Server(script) as server:
    settings = {"concurrency": 1, "retries": 0}
    found = []
    judge = ByEndpoint(Endpoint(url=server.url, model="m", **settings))
    with pytest.raises(ValueError, match="status 400"):
      for verdict in judge(questions):
        found.append(verdict)
    assert [v.scores for v in found] == [(-1, 0)] * 2
    assert len(server.requests) == 5


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_requests_at_a_time_than_allowed(ask, most):
  def script(n, shown):
    raise SaidError(wait=0.05, body=chat(longer(n, shown)))

  questions = [Question((("user", str(i)),), ("a", "bb")) for i in range(5)]
  with Server(script) as server:
    found = ask(server, questions, concurrency=most)
    assert server.most == most
  assert [v.scores for v in found] == [(-1, 0)] * 5


def test_a_model_must_be_named():
  with pytest.raises(ValueError, match="--judge.model: no name"):
    ByEndpoint(dataclasses.replace(Endpoint()))
