"""Attacks are held to what the contract is: every answer that the SDK gets is checked here too."""

from contract.conftest import answers, every_answer_is_as_the_sdk_expects

__all__ = ["answers", "every_answer_is_as_the_sdk_expects"]
