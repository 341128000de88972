"""Parse commands with their own parsers and stop there: run as a script by test_commands.

Reads a JSON list of `["python", FILE or "-m", ...]` from stdin, prints a list of complaints,
null for a command that its program takes. Each is parsed in a process of its own, forked
from this one, which has loaded what all of them need.
"""

import argparse
import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path

from absl import app, flags

from ldm_jax import config as config_lib


class Parsed(BaseException):
    """The command line is right; nothing of the program is run."""


def stop_after_parsing() -> None:
    """From here on programs end where their flags are read."""

    def run(main, argv=None, flags_parser=None):
        del main
        flags_parser(argv or sys.argv)
        if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
            config_lib.check(flags.FLAGS["config"].value)
        raise Parsed

    app.run = run
    parse_args = argparse.ArgumentParser.parse_args

    def parse(*args, **kwargs):
        parse_args(*args, **kwargs)
        raise Parsed

    argparse.ArgumentParser.parse_args = parse


def complaint(words: list[str]) -> str | None:
    """What a program says of a command; None if it takes it."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            if words[1] == "-m":
                sys.argv = words[2:]
                runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            else:
                sys.argv = words[1:]
                runpy.run_path(words[1], run_name="__main__")
        except Parsed:
            return None
        except SystemExit as end:
            return said.getvalue().strip() if end.code else None
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"
    return "it has no flags"


def in_a_fork(words: list[str]) -> str | None:
    """`complaint`, in a process of its own: flags are defined once a process."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(complaint(words)).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.wait()
    return json.loads(said) if said else "it crashed"


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    stop_after_parsing()
    json.dump([in_a_fork(words) for words in json.load(sys.stdin)], sys.stdout)
