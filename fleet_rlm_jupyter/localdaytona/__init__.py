"""A loopback server that speaks the Daytona API and runs each sandbox as an isolated local process."""
