"""Every answer that the SDK gets in these tests is checked against the models of the SDK's own generated clients."""

from collections.abc import Iterator
from typing import Any

import daytona_api_client
import daytona_api_client_async
import daytona_toolbox_api_client
import daytona_toolbox_api_client_async
import pytest
from pydantic import BaseModel, ValidationError

CLIENTS = (
    daytona_api_client,
    daytona_api_client_async,
    daytona_toolbox_api_client,
    daytona_toolbox_api_client_async,
)


class Answers:
    """Collects what was wrong with answers."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def check(self, original: Any, client: Any, response: Any, types: dict[str, Any] | None) -> Any:
        status, types = response.status, types or {}
        wanted = [code for code in types if code.startswith("2")]
        where = f"{response.getheaders()} {types}"
        if 200 <= status < 300 and str(status) not in wanted:
            self.wrong.append(f"status {status} where the SDK knows only {wanted}: {where}")
        if (
            status >= 400
            and b'"statusCode"' not in (response.data or b"")
            and b'"errors"' not in (response.data or b"")
        ):
            self.wrong.append(f"an error {status} that is not in Daytona's form: {response.data!r}")
        try:
            made = original(client, response, types)
        except ValidationError as err:
            self.wrong.append(f"{status} {types}: {err}")
            raise
        if 200 <= status < 300:
            if types.get(str(status)) and made.data is None:
                self.wrong.append(f"no body where the SDK reads a {types[str(status)]}")
            self._look(made.data, types.get(str(status)))
        return made

    def _look(self, value: Any, kind: Any) -> None:
        """Nothing that the models do not know, and no value outside their enumerations."""
        if isinstance(value, list):
            for one in value:
                self._look(one, kind)
        elif isinstance(value, BaseModel):
            if extra := getattr(value, "additional_properties", None):
                self.wrong.append(f"{kind} has no {set(extra)}")
            for name in type(value).model_fields:
                if name != "additional_properties":
                    self._look(getattr(value, name), f"{kind}.{name}")
        elif value == "unknown_default_open_api":
            self.wrong.append(f"{kind} is not one of its values")


@pytest.fixture(scope="session")
def answers() -> Iterator[Answers]:
    with pytest.MonkeyPatch.context() as patch:
        made = Answers()
        for package in CLIENTS:
            original = package.ApiClient.response_deserialize

            def checked(self: Any, response_data: Any, response_types_map: Any = None, original: Any = original) -> Any:
                return made.check(original, self, response_data, response_types_map)

            patch.setattr(package.ApiClient, "response_deserialize", checked)
        yield made


@pytest.fixture(autouse=True)
def every_answer_is_as_the_sdk_expects(answers: Answers) -> Iterator[None]:
    yield
    wrong, answers.wrong = answers.wrong, []
    assert not wrong, "\n".join(wrong)
