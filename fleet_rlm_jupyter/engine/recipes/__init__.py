"""The offline recipes: what they are, how a question becomes one, and the code they run in the sandbox.

`plan` names the recipes; `words` and `understand` turn a question into a plan or abstain; `records`, `profile`,
`tally`, `classes`, `parts` and `report` are the standard-library code that runs in the sandbox; `cells` cuts it into
REPL cells; `recheck` answers the plain questions about single excerpts.
"""

from fleet_rlm_jupyter.engine.recipes.plan import RECIPES, Recipe, Slot

__all__ = ["RECIPES", "Recipe", "Slot"]
