"""One request to a server, with what went wrong told in a line."""

import http.client
import json
import time
from typing import Any
import urllib.error
import urllib.parse
import urllib.request

_LARGEST = 2**24  # bytes of an answer
_LATER = (408, 409, 425, 429)  # may be well the next time, as 5xx may
_SECRET = 8  # characters of the shortest key that is taken for a secret
_PART = 6  # characters of a key that nobody may see
_SHOWN = 200  # characters of a server's words


class TryAgainError(Exception):
  """A request failed in a way that may not last.

  Attributes:
    wait: seconds that the server asks to wait for, or 0.
  """

  def __init__(self, message: str, wait: float = 0.0):
    super().__init__(message)
    self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
  """A redirect would carry the key to somewhere else."""

  def redirect_request(self, *_: Any) -> None:
    return None


_opener = urllib.request.build_opener(_NoRedirect)


def check(url: str) -> None:
  """ValueError where an address cannot be asked, or holds a password."""
  parts = urllib.parse.urlsplit(url)
  if parts.scheme not in ("http", "https") or not parts.hostname:
    shown = url if "@" not in url else "..."
    raise ValueError(
      f"--judge.url={shown}: expected http://... or https://..., such as"
      " http://localhost:8000/v1"
    )
  if parts.username or parts.password or parts.query or parts.fragment:
    plain = f"{parts.scheme}://{parts.hostname}{parts.path}"
    raise ValueError(
      f"--judge.url={plain}: give it without user, password or query; a key is"
      " read from the environment variable that --judge.key names"
    )


def post(url: str, payload: Any, key: str | None, timeout: float) -> Any:
  """The JSON that a server answers to JSON.

  Args:
    url: where.
    payload: what.
    key: sent as a bearer token; never in what is raised.
    timeout: seconds, for the connection and for the whole answer each.

  Raises:
    TryAgainError: no connection, no answer in time, a busy or broken server,
      or an answer that is no JSON.
    ValueError: the server refuses the request.
  """
  headers = {"Content-Type": "application/json", "User-Agent": "llm_jax"}
  if key:
    headers["Authorization"] = f"Bearer {key}"
  request = urllib.request.Request(
    url, json.dumps(payload).encode(), headers, method="POST"
  )
  try:
    with _opener.open(request, timeout=timeout) as response:
      body = _read(response, timeout)
  except urllib.error.HTTPError as e:
    said = _refusal(e, key)
    if e.code in _LATER or e.code >= 500:
      raise TryAgainError(
        said, _seconds(e.headers.get("Retry-After"))
      ) from None
    raise ValueError(f"--judge.url={url}: refused: {said}") from None
  except TimeoutError:
    raise TryAgainError(f"there was no answer within {timeout:g} s") from None
  except (OSError, http.client.HTTPException) as e:
    reason = getattr(e, "reason", e)
    if isinstance(reason, TimeoutError):
      raise TryAgainError(
        f"there was no connection within {timeout:g} s"
      ) from None
    raise TryAgainError(
      f"it could not be reached ({hidden(_line(reason), key)})"
    ) from None
  try:
    return json.loads(body)
  except (ValueError, RecursionError):
    raise TryAgainError("it gave an answer that is no JSON") from None


def hidden(text: str, key: str | None) -> str:
  """A text, or a note in its place if it holds a part of the key.

  A key of a few characters is a placeholder, not a secret.
  """
  key = key or ""
  parts = [key[i : i + _PART] for i in range(len(key) - _PART + 1)]
  if len(key) >= _SECRET and any(part in text for part in parts):
    return "(withheld, as it holds a part of the key)"
  return text


def _read(response: Any, timeout: float) -> bytes:
  """The whole answer; a server that dribbles is not waited for."""
  until, parts, size = time.monotonic() + timeout, [], 0
  while part := response.read1(2**16):
    parts.append(part)
    size += len(part)
    if size > _LARGEST:
      raise TryAgainError(f"it gave an answer of more than {_LARGEST} bytes")
    if time.monotonic() > until:
      raise TimeoutError
  return b"".join(parts)


def _refusal(error: urllib.error.HTTPError, key: str | None) -> str:
  """Status and the beginning of what the server says."""
  try:
    text = error.read(2**14).decode("utf-8", "replace")
  except (OSError, http.client.HTTPException):
    text = ""
  try:
    said = json.loads(text)["error"]
    text = said["message"] if isinstance(said, dict) else str(said)
  except (ValueError, KeyError, TypeError, RecursionError):
    pass
  text = hidden(" ".join(str(text).split()), key)[:_SHOWN]
  return f"it gave status {error.code}{': ' if text else ''}{text}"


def _seconds(given: str | None) -> float:
  """Of a Retry-After in seconds; 0 for a date or anything else."""
  return float(given) if given and given.isdecimal() else 0.0


def _line(error: object) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]
