"""What several commands have in common: a Workbench for as long as they work, and JSON on demand."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

import fleet_rlm_jupyter as fleet

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")


@contextmanager
def opened_bench() -> Generator[Any]:
    opened = fleet.Workbench()
    try:
        yield opened
    finally:
        opened.close()


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
