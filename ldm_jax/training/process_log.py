"""The stderr of one process among several: says whose it is, and leaves out C++ stacks.

When a peer dies, JAX's runtime aborts its process from a C++ thread, where no Python can
step in. So what a process writes to stderr goes through this filter, a process of its own
that outlives it, and that turns the runtime's last words into one sentence. It is started
by path, as a script, so that it imports nothing of this package.
"""

import re
import signal
import sys

_FATAL = "Terminating process because the JAX distributed service detected fatal errors"
_STACK = re.compile(r"\*\*\* Check failure stack trace|\s+@\s+0x[0-9a-f]+ ")
_DETAILS = re.compile(
    r"RPC: |Additional GRPC|:UNKNOWN:|The tasks have crashed|\d+$|$"
    r"|Fatal Python error|(Current t|T)hread 0x|  File \"|Extension modules: "
)

LOST = (
    "another process of this run died or cannot be reached: all of them stop; start them "
    "all again with the same command, and training goes on from the newest checkpoint"
)
ABSENT = (
    "not all processes of this run found one another: start all of them, each with the "
    "same --coordinator_address and --num_processes, which process 0 can listen at and "
    "the others can reach"
)
MISNUMBERED = (
    "the processes of this run do not fit together: give all of them the same "
    "--num_processes, and each its own --process_id from 0 on"
)


def sentence_for(last_words: str) -> str:
    """What the runtime's fatal message means to who started the run."""
    if "INVALID_ARGUMENT" in last_words or "ALREADY_EXISTS" in last_words:
        return MISNUMBERED
    return ABSENT if "RegisterTask" in last_words else LOST


class Filter:
    """Lines in, the lines to show out; `finish` gives what the end of the stream tells."""

    def __init__(self) -> None:
        self._last_words: list[str] = []
        self._has_told = False

    def show(self, line: str) -> str | None:
        """The line, unless it belongs to an abort."""
        self._has_told = self._has_told or LOST in line
        if _FATAL in line:
            self._last_words.append(line)
            return None
        if _STACK.match(line):
            return None
        if self._last_words and _DETAILS.match(line):
            self._last_words.append(line)
            return None
        return line

    def finish(self) -> str | None:
        """The sentence for an abort, if there was one and nobody has said it yet."""
        if not self._last_words or self._has_told:
            return None
        return f"error: {sentence_for(' '.join(self._last_words))}\n"


def main(prefix: str) -> None:
    """Copy stdin to stderr through a `Filter`, each line after `prefix`."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the end of the stream is the end
    lines = Filter()

    def write(line: str | None) -> None:
        if line is not None:
            sys.stderr.write(f"{prefix}{line}")
            sys.stderr.flush()

    for line in sys.stdin.buffer:
        write(lines.show(line.decode(errors="replace")))
    write(lines.finish())


if __name__ == "__main__":
    main(sys.argv[1])
