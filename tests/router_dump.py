"""A server extension of the tests: tells what the server's live router leads to, and what its process has loaded."""

import json
import os
import sys
from pathlib import Path

from tornado import web


def _load_jupyter_server_extension(serverapp):
    serverapp.io_loop.add_callback(dump, serverapp.web_app)
    path = serverapp.web_app.settings["base_url"] + "modules"
    base = serverapp.web_app.settings["base_url"]
    serverapp.web_app.add_handlers(".*$", [(base + "cull", CullHandler, {"serverapp": serverapp})])
    serverapp.web_app.add_handlers(".*$", [(path, ModulesHandler)])


class CullHandler(web.RequestHandler):
    """The look at an idle server that Jupyter takes once a minute, taken now."""

    def initialize(self, serverapp):
        self.serverapp = serverapp

    def get(self):
        self.serverapp.shutdown_no_activity()


class ModulesHandler(web.RequestHandler):
    def get(self):
        self.finish(json.dumps(sorted(sys.modules)))


def dump(app):
    rules = [rule for outer in app.default_router.rules for rule in getattr(outer.target, "rules", [])]
    found = []
    for rule in rules:
        pattern = getattr(rule.matcher, "regex", None)
        if pattern is None or "fleet" not in pattern.pattern:
            continue
        methods = [
            name
            for name in rule.target.SUPPORTED_METHODS
            if getattr(rule.target, name.lower()) is not web.RequestHandler._unimplemented_method
        ]
        found.append({"pattern": pattern.pattern, "handler": rule.target.__name__, "methods": methods})
    Path(os.environ["ROUTER_DUMP"]).write_text(json.dumps(found))
