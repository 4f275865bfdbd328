"""Where JupyterHub's proxy is: where `make other-lanes` puts it, or where somebody else has; empty where nowhere."""

import shutil
import sys
from pathlib import Path

_OURS = Path(sys.prefix, "hub-proxy", "node_modules", ".bin", "configurable-http-proxy")

HUB_PROXY = str(_OURS) if _OURS.exists() and shutil.which("node") else shutil.which("configurable-http-proxy") or ""
