"""How many cases: a few in `make test`, always the same; many and new ones in `make fuzz`."""

from fuzz import oracle
from hypothesis import HealthCheck, settings

QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
COMMON = {"deadline": None, "suppress_health_check": QUIET, "database": None}

settings.register_profile("short", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=1200, print_blob=True, **COMMON)
settings.load_profile("short")  # --hypothesis-profile=long chooses the other


def pytest_terminal_summary(terminalreporter) -> None:
    """Cases and outcomes by target."""
    if not oracle.COUNTS:
        return
    total = sum(sum(outcomes.values()) for outcomes in oracle.COUNTS.values())
    terminalreporter.write_line(f"{total} damaged inputs:")
    for target, outcomes in sorted(oracle.COUNTS.items()):
        told = ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items()))
        terminalreporter.write_line(f"  {target}: {told}")
