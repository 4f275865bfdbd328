"""Starts the local Daytona server: `python -m fleet_rlm_jupyter.localdaytona --port N --key K`."""

import sys

from fleet_rlm_jupyter.localdaytona import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
