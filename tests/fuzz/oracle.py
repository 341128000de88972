"""What may come of a damaged input: a result, or one sentence that says what is wrong."""

import json
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

SECONDS = 60  # a case takes milliseconds, or a second; the machine may be busy
MAX_LENGTH = 1500

# Errors of libraries: true, but nothing that tells a user which file or field to mend.
RAW = (UnicodeDecodeError, UnicodeEncodeError, json.JSONDecodeError)

COUNTS: dict[str, Counter[str]] = defaultdict(Counter)


def attempt(target: str, read: Callable[[], Any], *, names: str = "") -> Any:
    """What `read` gives, or None if it refused clearly; anything else fails the test.

    Args:
      names: what the sentence must hold, such as the file's name.
    """
    try:
        with _no_hang():
            result = read()
    except (ValueError, OSError) as error:
        sentence = str(error)
        assert not isinstance(error, RAW), f"a library's own {type(error)}: {sentence}"
        assert sentence and "\n" not in sentence.strip(), f"not one line: {sentence!r}"
        assert len(sentence) < MAX_LENGTH, f"{len(sentence)} characters: {sentence!r}"
        assert names in sentence, f"{names} is not named: {sentence!r}"
        COUNTS[target]["refused"] += 1
        return None
    COUNTS[target]["read"] += 1
    return result


@contextmanager
def _no_hang():
    def ring(*_: Any) -> None:
        raise AssertionError(f"still at it after {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
