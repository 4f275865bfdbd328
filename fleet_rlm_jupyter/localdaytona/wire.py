"""The form of Daytona's answers that both the control plane and the toolbox use: errors and time stamps."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime

# Variables of a terminal travel in a header, and may be long.
LINE_BYTES, HEADER_BYTES = 64 << 10, 256 << 10
API, DAEMON, PROXY = "DAYTONA_API", "DAYTONA_DAEMON", "DAYTONA_PROXY"


class ApiError(Exception):
    """An answer with an error status: `code` picks the class the SDK raises."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, source: str = ""
    ) -> None:
        """`source` is only given where it is not the program that answers."""
        super().__init__(message)
        self.headers = headers or {}
        self.source = source
        self.status = status
        self.code = code
        self.message = message


def error_body(error: ApiError, source: str, method: str, path: str) -> bytes:
    return json.dumps(
        {
            "statusCode": error.status,
            "message": error.message,
            "code": error.code,
            "source": source,
            "timestamp": timestamp(time.time()),
            "path": path,
            "method": method,
        }
    ).encode()


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_object(raw: bytes) -> dict[str, object]:
    """The JSON object in a request body (an empty body is an empty object); raises ApiError 400."""
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise ApiError(400, "BAD_REQUEST", f"the body is not JSON: {err}") from err
    if not isinstance(value, dict):
        raise ApiError(400, "BAD_REQUEST", "the body must be a JSON object")
    return value
