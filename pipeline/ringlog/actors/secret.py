"""The secret of the data plane: made once in each Ray cluster, and kept in its GCS, like the actors themselves.

No actor hands it out: whoever begins again needs nobody else for it, and what was running keeps a secret that is valid.
"""

from __future__ import annotations

import secrets

from ray.exceptions import RayError
from ray.experimental import internal_kv

from ringlog.errors import Unavailable

_NAMESPACE, _KEY = b"ringlog", b"token"
_DEADLINE_S = 10.0


def data_plane_token() -> str:
    """The token that every call of the data plane carries. Raises `Unavailable`."""
    gcs = internal_kv.internal_kv_get_gcs_client()
    try:
        gcs.internal_kv_put(_KEY, secrets.token_hex(32).encode(), False, _NAMESPACE, timeout=_DEADLINE_S)
        found: bytes = gcs.internal_kv_get(_KEY, _NAMESPACE, timeout=_DEADLINE_S)
    except RayError as error:
        raise Unavailable(f"the Ray cluster gives no token now: {error}") from error
    return found.decode()
