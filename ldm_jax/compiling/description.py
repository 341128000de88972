"""A `Report` as text for people."""

from ldm_jax.compiling.hlo import Collective
from ldm_jax.compiling.report import Report


def describe(report: Report) -> str:
    """A table, one quantity a line; everything is of one device unless it says not."""
    rows = [
        ("program", f"{report.program} on {report.topology}"),
        ("pictures", f"{report.batch_size // report.num_devices} a device"),
        *_memory_rows(report),
        ("FLOPs", f"{report.flops / 1e12:.3f} TFLOP"),
    ]
    if report.xla_flops is not None:
        rows.append(("XLA's count", f"{report.xla_flops / 1e12:.3f} TFLOP, loops once"))
    rows += [(exchange.kind, _exchanged(exchange)) for exchange in report.collectives]
    rows += _time_rows(report)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _memory_rows(report: Report) -> list[tuple[str, str]]:
    rows = [(f"memory: {role}", _mib(size)) for role, size in report.memory.items()]
    peak = _mib(report.peak_bytes)
    if report.hbm_bytes is not None:
        verdict = "fits" if report.fits else "does not fit"
        peak += f" of {_mib(report.hbm_bytes)}: {verdict}"
    return [*rows, ("memory: peak", peak)]


def _time_rows(report: Report) -> list[tuple[str, str]]:
    if report.seconds is None or report.images_per_second is None:
        return []
    exchange = report.exchange_seconds or 0.0
    slow = report.batch_size / report.num_devices / (report.seconds + exchange)
    devices, rate = report.num_devices, report.images_per_second
    optimal = report.optimal_seconds
    rows = [] if optimal is None else [("optimal_seconds", f"{optimal:.4f} s")]
    return [
        *rows,
        ("time, estimated", f"{report.seconds:.4f} s"),
        ("exchanges, at least", f"{exchange:.4f} s, hidden or not"),
        ("pictures a second", f"{rate:.1f} a device, {rate * devices:,.0f} in all"),
        (
            "  exchanges not hidden",
            f"{slow:.1f} a device, {slow * devices:,.0f} in all",
        ),
        ("MFU", f"{report.mfu:.1%} of bfloat16's peak"),
    ]


def _exchanged(exchange: Collective) -> str:
    size, sent = _mib(exchange.num_bytes), _mib(exchange.sent_bytes)
    return f"{exchange.count} x, {size}, {sent} sent"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
