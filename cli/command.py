"""Definition of the client's commands: each has the options of the connection, `--json`, and examples.

A command is a function whose first parameter is a Session. A parameter whose type is a dataclass becomes one option
per field, so that options of several commands are written once.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer
from rich.markup import escape
from typer.models import OptionInfo

from cli.api_client.errors import ApiError
from cli.api_client.target import Target, find_target
from cli.errors import UsageError
from cli.output import Output
from everhook_client.calls import camel

if TYPE_CHECKING:
    from cli.api_client.client import Api

PANEL = "Connection and output"

P = ParamSpec("P")


def profile_names() -> list[str]:
    """For the shell's completion."""
    from cli.api_client import profiles

    return sorted(profiles.load().profiles)


@dataclass(frozen=True)
class Connection:
    """The options of every command."""

    api_url: Annotated[
        str | None, typer.Option(help="The API's address; by default EVERHOOK_URL.", rich_help_panel=PANEL)
    ] = None
    profile: Annotated[
        str | None,
        typer.Option(
            help="A profile of the config file; by default EVERHOOK_PROFILE.",
            rich_help_panel=PANEL,
            autocompletion=profile_names,
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.", rich_help_panel=PANEL)] = False


class Session:
    """The target, the API client and the output of one command. The API is located and connected to on first use."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.out = Output(connection.as_json)

    @functools.cached_property
    def target(self) -> Target:
        from cli.api_client import profiles

        found = find_target(self.connection.api_url, self.connection.profile)
        if found.key_source.startswith("profile ") and profiles.is_open_to_others():
            file = profiles.config_file()
            self.out.note(f"others on this machine can read the keys in {file}: chmod 600 {file}", "yellow")
        return found

    @functools.cached_property
    def api(self) -> "Api":
        from cli.api_client.client import Api

        return Api(self.target, waiting=self.out.busy)

    def close(self) -> None:
        if "api" in self.__dict__:
            self.api.close()


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], help: str | None = None
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[..., None]]:
    """Register a function as a command of `app`. `examples` are command lines without the leading `everhook`; `help` is
    its docstring by default."""

    def make(function: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
        groups, parameters = _options(function)

        @functools.wraps(function)
        def run(**given: Any) -> None:
            options = _options_by_field([each for each in parameters if given[each.name] != each.default])
            for group_name, group in groups.items():
                given[group_name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
            session = Session(given.pop("connection"))
            _check_numbers(given)
            try:
                function(session, **given)  # type: ignore[call-arg]
            except ApiError as error:
                raise error.in_options(options) from error
            finally:
                session.close()

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=flowing(help or function.__doc__ or ""), epilog=epilog(examples))(run)
        return run

    return make


def _check_numbers(given: dict[str, Any]) -> None:
    """Reject `nan` and `inf`: they pass the bounds of options, and fail everywhere else."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')} must be a number, not {value}")
        if is_dataclass(value) and not isinstance(value, type):
            _check_numbers(vars(value))


def _options(function: Callable[..., None]) -> tuple[dict[str, type[Any]], list[inspect.Parameter]]:
    """The dataclass parameters after the first, and all parameters with these expanded into their fields."""
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    _, *own = inspect.signature(function).parameters.values()
    for parameter in [*own, inspect.Parameter("connection", inspect.Parameter.KEYWORD_ONLY, annotation=Connection)]:
        if is_dataclass(parameter.annotation) and isinstance(parameter.annotation, type):
            groups[parameter.name] = parameter.annotation
            parameters += [_option(field) for field in fields(parameter.annotation)]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    return groups, parameters


def _option(field: "Field[Any]") -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, annotation=field.type, default=default)


def _options_by_field(parameters: Sequence[inspect.Parameter]) -> dict[str, str]:
    """Options by the fields of requests that they set: `endpointGid`, or `endpoint`, is that of `--endpoint`, and
    `events` that of `--event`."""
    found: dict[str, str] = {}
    for parameter in parameters:
        for info in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(info, OptionInfo):
                declared = [info.default, *(info.param_decls or ())]  # in `Annotated` the first is taken for a default
                named = [name for name in declared if isinstance(name, str) and name.startswith("--")]
                option = named[0] if named else f"--{parameter.name.replace('_', '-')}"
                for field in (camel(parameter.name), camel(option.removeprefix("--").replace("-", "_"))):
                    found |= {field: option, f"{field}Gid": option}
    return found


def flowing(docstring: str) -> str:
    """Paragraphs without the line breaks of the source, so that the terminal wraps them."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


def epilog(examples: Sequence[str]) -> str:
    head = f"[bold]{'Example' if len(examples) == 1 else 'Examples'}[/]"
    return "\n".join([head, *(f"  everhook {escape(example)}" for example in examples)])
