"""The worker's log: keys are hidden in every line, and a record is one JSON object where that is wanted."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

Form = Literal["text", "json"]

NO_REQUEST = "-"


class MaskedFormatter(logging.Formatter):
    """A record as text, its traceback below it. `mask` hides keys, and may be replaced once they are known."""

    def __init__(self) -> None:
        super().__init__("[%(levelname).1s %(asctime)s fleet] %(message)s")
        self.mask: Callable[[str], str] = str

    def format(self, record: logging.LogRecord) -> str:
        return self.mask(super().format(record))


class JsonFormatter(MaskedFormatter):
    """A record as one line: an object with `at`, `level`, `logger`, `message`, `request_id` and `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        error = self.formatException(record.exc_info) if record.exc_info else None
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": self.mask(record.getMessage()),
            "request_id": self.mask(str(record.__dict__.get("request_id", NO_REQUEST))),
            "traceback": None if error is None else self.mask(error),
        }
        return json.dumps(line)


def log_to_stderr(form: Form) -> MaskedFormatter:
    """Have warnings and errors of this process written so; whoever knows its keys gives the formatter their mask."""
    formatter = JsonFormatter() if form == "json" else MaskedFormatter()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level="WARNING")
    logging.captureWarnings(True)
    return formatter
