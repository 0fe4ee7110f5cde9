"""What is kept in the GCS of the Ray cluster, like the actors themselves: a secret, and whose actors they are.

No actor hands these out: whoever begins again needs nobody else for it.
"""

from __future__ import annotations

import hashlib
import secrets

from ray.exceptions import RayError
from ray.experimental import internal_kv

from ringlog.actors.remote import require_ray
from ringlog.errors import Unavailable

_NAMESPACE, _SECRET, _OWNER = b"ringlog", b"token", b"owner"
_DEADLINE_S = 10.0


def data_plane_token(pipeline: str) -> str:
    """The token that every call of the data plane of ``pipeline``, given by its id, carries. Raises `Unavailable`.

    It follows from a secret that is made once in each Ray cluster, so what was running keeps a token that is valid.
    Another pipeline has another token: nobody takes its actors for those of this one, where they listen on a port that
    was this one's.
    """
    _put(_SECRET, secrets.token_hex(32).encode(), overwrite=False)
    return hashlib.blake2b(pipeline.encode(), key=_get(_SECRET), digest_size=32).hexdigest()


def owner() -> str | None:
    """The id of the pipeline whose actors run in this Ray cluster, None where none ever ran. Raises `Unavailable`."""
    found = _get(_OWNER)
    return found.decode() if found else None


def own(pipeline: str) -> None:
    """From now on, the actors that run in this Ray cluster are those of ``pipeline``. Raises `Unavailable`."""
    _put(_OWNER, pipeline.encode(), overwrite=True)


def _get(key: bytes) -> bytes:
    require_ray()
    try:
        found: bytes | None = internal_kv.internal_kv_get_gcs_client().internal_kv_get(
            key, _NAMESPACE, timeout=_DEADLINE_S
        )
    except RayError as error:
        raise Unavailable(f"the Ray cluster does not answer now: {error}") from error
    return found or b""


def _put(key: bytes, value: bytes, overwrite: bool) -> None:
    require_ray()
    try:
        internal_kv.internal_kv_get_gcs_client().internal_kv_put(key, value, overwrite, _NAMESPACE, timeout=_DEADLINE_S)
    except RayError as error:
        raise Unavailable(f"the Ray cluster does not answer now: {error}") from error
