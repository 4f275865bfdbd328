"""The offline recipes: what they are, how a question becomes one, and the code they run in the sandbox.

`plan` names the recipes. `understand` turns a question into a plan or abstains: by `cues`, `words` and `grammar` for
records, `text_words` for prose, `python_words` and `inventory_words` for Python sources. `conditions`, `records`,
`profile`, `tally`, `stats`, `passages`, `classes`, `usages`, `inventory`, `parts`, `report` and `report_text` are the
code that runs in the sandbox (standard library, and bm25s where it is there); `cells` cuts it into REPL cells;
`recheck` answers the plain questions about single excerpts.
"""

from fleet_rlm_jupyter.engine.recipes.plan import RECIPES, Recipe, Slot

__all__ = ["RECIPES", "Recipe", "Slot"]
