"""Where code runs: sandboxes through the Daytona SDK, a REPL in each, DSPy's interpreter over it."""
