"""Whether Orbax can write where checkpoints are to be."""

import pathlib

import tensorstore

from llm_jax import storage
from llm_jax.checkpoints import staging

_TRIES = 3  # of a request; Orbax's own saves try 32 times


def check(folder: pathlib.Path, flag: str) -> None:
  """ValueError where a bucket is open to gcsfs, and to TensorStore is not.

  By that Orbax writes gs://, and it looks for credentials in other places.
  """
  if not storage.is_remote(folder) or staging.needed(folder):
    return
  bucket, _, path = folder.path.partition("/")
  try:
    store = tensorstore.KvStore.open(
      {
        "driver": "gcs",
        "bucket": bucket,
        "path": f"{path}/",
        "context": {"gcs_request_retries": {"max_retries": _TRIES}},
      }
    ).result()
    probe = storage.partial_name("experiment.json")
    store.write(probe, b"a probe").result()
    store.write(probe, None).result()  # which removes it
  except Exception as e:  # it raises ValueError for most things
    raise ValueError(
      f"--{flag}={folder}: cannot be written by TensorStore, which saves"
      f" checkpoints ({storage.reason(e)})"
    ) from e
