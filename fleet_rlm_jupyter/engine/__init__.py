"""How runs happen: models, meter, recursion, recorder."""
