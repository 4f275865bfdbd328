"""Where the server's API is: words that the server, its worker and their clients share."""

API = "/fleet/api/v1"
API_VERSION = 1
"""Rises when a client of the last version would misunderstand this one."""

REQUEST_ID = "X-Request-ID"

KEY_HEADER = "X-Fleet-Key"
"""The worker's key. Only the Jupyter server has it."""

USER_HEADER = "X-Fleet-User"
"""Whose sessions a request sees. Only the Jupyter server may say so: from outside neither header is passed on."""

SOCKET_CLOSED = {"policy": 1008, "restarting": 1012}
"""Why the server closes a socket: too many bad frames; the worker is started anew."""
