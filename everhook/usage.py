"""What is wrong with how we were called, or with what is around us: told in one line, exit status 2."""

from typing import Any

from pydantic import ValidationError

from everhook.settings import Settings


class Unusable(Exception):
    """Something around us is wrong; the text is one line that says what, and what to do."""


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment. Raises Unusable, naming each variable that is wrong."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(
            f"EVERHOOK_{'_'.join(str(part) for part in e['loc']).upper()}: {e['msg']}" if e["loc"] else e["msg"]
            for e in error.errors()
        )
        raise Unusable(wrong.replace("Value error, ", "")) from error
