"""What the program says on Windows, which has neither the processes nor the terminals that sandboxes need."""

import json
import sys


def main(argv: list[str]) -> int:
    text = "the local server does not run on Windows"
    hint = "use it inside WSL, or set DAYTONA_API_KEY to use Daytona"
    print(json.dumps({"error": {"code": "no_platform", "text": text, "hint": hint}}))
    print(f"localdaytona: {text}; {hint}", file=sys.stderr)
    return 2
