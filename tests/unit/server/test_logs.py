"""The worker's log: one JSON object a line where that is wanted, and no key in either form."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from traitlets import TraitError

from fleet_rlm_jupyter.domain.masking import STARS, Mask
from fleet_rlm_jupyter.server.extension import FleetApp
from fleet_rlm_jupyter.server.logs import JsonFormatter, MaskedFormatter

KEY = 'plum"tree\\7519é'


def record_of(error: Exception, **extra: str) -> logging.LogRecord:
    try:
        raise error
    except type(error):
        log = logging.getLogger("fleet.test")
        given = ("%s\nfailed", (f"a {KEY}",), sys.exc_info())
        return log.makeRecord(log.name, logging.ERROR, __file__, 1, *given, extra=extra)


def test_a_record_is_one_line_of_json_with_its_request_and_without_keys():
    formatter = JsonFormatter()
    formatter.mask = Mask([KEY], home="")
    line = formatter.format(record_of(ValueError(f"two\nlines, {KEY}"), request_id=f"id-{KEY}"))
    assert len(line.splitlines()) == 1
    said = json.loads(line)
    assert {name: said[name] for name in ("level", "logger", "message", "request_id")} == {
        "level": "ERROR", "logger": "fleet.test", "message": f"a {STARS}\nfailed", "request_id": f"id-{STARS}",
    }  # fmt: skip
    assert said["traceback"].endswith(f"ValueError: two\nlines, {STARS}")
    assert said["at"].endswith("+00:00")
    assert not [value for value in said.values() if KEY in value]


def test_a_record_of_no_request_and_no_error_says_so():
    record = logging.makeLogRecord({"msg": "so it is", "levelname": "WARNING"})
    said = json.loads(JsonFormatter().format(record))
    assert (said["message"], said["request_id"], said["traceback"]) == ("so it is", "-", None)


def test_text_hides_keys_too_also_in_a_traceback():
    formatter = MaskedFormatter()
    formatter.mask = Mask([KEY], home="")
    text = formatter.format(record_of(ValueError(KEY)))
    assert KEY not in text
    assert text.endswith(f"ValueError: {STARS}")


def test_there_is_no_other_form():
    with pytest.raises(TraitError):
        FleetApp(worker_log="xml")
