"""The words of the field: events, calls, budget, sessions, volumes, ports. Standard library and pydantic only."""
