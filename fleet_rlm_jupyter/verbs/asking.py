"""What a question stands for: its repository, its files, its context and its words. Refused before any work."""

from __future__ import annotations

from fleet_rlm_jupyter.domain.context import Context
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.ports import Workspace
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.domain.staging import Staging
from fleet_rlm_jupyter.engine.contexts import read_context
from fleet_rlm_jupyter.engine.models import Models
from fleet_rlm_jupyter.engine.offline import compose
from fleet_rlm_jupyter.engine.staging import refuse_too_much, stage
from fleet_rlm_jupyter.settings import ContextSettings
from fleet_rlm_jupyter.verbs.house import House


def workspace_of(house: House, asked: Question) -> Workspace | None:
    """The repository that is asked about, fetched. Raises what `Repositories.tree` raises."""
    if asked.repo_url is None:
        if asked.repo_ref is not None:
            raise BadRequest("repo_ref is given without repo_url", "name the repository, too")
        return None
    if house.models().is_offline:
        raise BadRequest("offline recipes read a context and no repository", "pass its folder as context")
    if asked.mode == "direct":
        raise BadRequest("a plain call has no sandbox for a repository", "leave the mode out")
    return house.repository(asked.repo_url, asked.repo_ref or "")


def staging_of(house: House, asked: Question) -> Staging | None:
    """The files that the sandbox is to have, looked through. Raises what `stage` raises."""
    if not asked.context_paths and asked.staged is None:
        return None
    if house.models().is_offline:
        raise BadRequest("offline recipes read a context and no staged files", "pass them as context")
    if asked.mode == "direct":
        raise BadRequest("a plain call has no sandbox for staged files", "leave the mode out")
    if asked.staged is None:
        return stage(asked.context_paths, house.settings)
    if asked.context_paths:
        raise BadRequest("files are staged twice", "pass paths or what was read of them, not both")
    refuse_too_much(asked.staged.manifest, house.settings.context)
    return asked.staged


def context_of(asked: Question, settings: ContextSettings) -> Context:
    """What is asked about, read. Raises what `read_context` raises."""
    if asked.context is None:
        return read_context(asked.paths, settings)
    if asked.paths:
        raise BadRequest("a context is given twice", "pass paths or a value, not both")
    return asked.context if isinstance(asked.context, Context) else Context.of(asked.context)


def composed(asked: Question, models: Models) -> str:
    """The question in words; one with a recipe in the words of that."""
    if asked.recipe is None:
        if asked.slots:
            raise BadRequest("slots belong to a recipe", "name it with --recipe")
        return asked.text
    if not models.is_offline:
        raise BadRequest("recipes are for the offline model", "leave --recipe out, or choose model offline/recipes")
    return compose(asked.recipe, dict(asked.slots), asked.text)
