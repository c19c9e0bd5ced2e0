"""The `voxseg` command: finds the command asked for, and turns errors into one line and an exit code.

Nothing heavy is imported here or by the modules of the commands, so that help and usage errors come at once.
"""

from __future__ import annotations

import copy
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from voxseg import __version__
from voxseg.cli import _result
from voxseg.cli._errors import DEBUG_VARIABLE, describe_bug, show_traceback
from voxseg.errors import UserError

__all__ = ["app", "run"]

COMMANDS = (
    "predict",
    "bids",
    "watch",
    "serve",
    "evaluate",
    "robustness",
    "agreement",
    "plan",
    "train",
    "benchmark",
    "data",
    "synthesize",
    "export",
)
"""Each is the function of its own name in the module of its own name, or the group `app` there; `Command`
may be the class of the former."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class _LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"voxseg.cli.{cmd_name}")
        group = getattr(module, "app", None)
        if group is not None:
            return self._with_json(typer.main.get_group(group))
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name, cls=getattr(module, "Command", None))(getattr(module, cmd_name))
        return self._with_json(typer.main.get_command(single))

    def _with_json(self, command: Any) -> Any:
        """The command, or each command of a group, with the option that `_result.wanted` looks for."""
        for one in getattr(command, "commands", {}).values() or [command]:
            option = copy.copy(next(parameter for parameter in self.params if _result.OPTION in parameter.opts))
            option.expose_value = False  # the commands need not know
            one.params.append(option)
        return command


app = typer.Typer(
    cls=_LazyGroup, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"voxseg {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show where an error came from (or set {DEBUG_VARIABLE}=1).")
    ] = False,
    json: Annotated[
        bool,
        typer.Option(_result.OPTION, help="For machines: one JSON document on standard output, all else on error."),
    ] = False,
) -> None:
    """Segment 3D medical images with networks that turn with the scan: the same answer in every pose."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 all done, 1 something failed, 2 the call or an input was wrong, 130 stopped by Ctrl-C.

    Args:
        arguments: without the program's name; by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text that the terminal can show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # A picture shows boxes for letters that its font lacks; whoever runs the program need not be told by Python.
    warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
    _result.begin()
    sys.exit(_result.tell(given, _run) if _result.wanted(given) else _run(given))


def _run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(arguments), prog_name="voxseg", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UserError as error:
        show_traceback(error)
        print(f"voxseg: {error}", file=sys.stderr)
        _result.add_user_error(error)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Abort:
        return FAILED
    except Exception as error:
        if isinstance(error, _CALL_ERROR):
            return _tell_of_call(error)
        print(f"voxseg: {describe_bug(error)}", file=sys.stderr)
        _result.add_bug("voxseg", error)
        return FAILED


# typer brings click along under one name or another; this is its error for calls that make no sense.
_CALL_ERROR: Any = typer.BadParameter.__mro__[2]


def _tell_of_call(error: Any) -> int:
    """Show what is wrong with the call, as click does."""
    error.show()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "voxseg"
    _result.add_error(path, error.format_message(), f"see {path} --help", error.exit_code)
    return int(error.exit_code)


if __name__ == "__main__":
    run()
