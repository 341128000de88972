"""A sampler: a plan made on the host, and one step; one `sample` runs any of them.

What depends on the noise levels, on eta and the like is a table with one row a step,
computed in float64 on the host (`Sampler.plan`) and *given* to the compiled program. So
the program depends on the sampler and on the length of the table alone; with `pad`, any
number of steps up to that length runs in the same program:

    levels = make_levels(schedule, 30, grid="trailing")        # host, float64 [31]
    plan = pad(DDIM.plan(levels, eta=0.5), 64)                 # host, float32 rows
    x0 = sample(denoise_fn, DDIM, plan, x_T, key)              # traced
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ldm_jax.diffusion.denoise import DenoiseFn
from ldm_jax.diffusion.schedules import Level
from ldm_jax.rng import step_key

PyTree = Any
HostOrTraced = Array | np.ndarray  # what rows hold: tables on the host, then tracers

# A plan without steps still needs the shape of a row.
_IDLE_STEP = Level(np.array([0.0, 0.0]), np.array([0.8, 1.0]), np.array([0.6, 0.0]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plan:
    """One run of a sampler as data: a pytree, traced under `jit`.

    Attributes:
      rows: what each step needs to know, float32 leaves `[s, ...]`.
      start: the level of the x that the first step takes, scalars.
      num_steps: how many of the rows count, int32 scalar.
    """

    rows: PyTree
    start: Level
    num_steps: Int[np.ndarray, ""]

    @property
    def num_rows(self) -> int:
        """s, the padding included."""
        return jax.tree.leaves(self.rows)[0].shape[0]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """From noise to data; a constant without numbers of its own.

    Attributes:
      rows: `(levels, **options) -> rows`: the table, one row for each pair of consecutive
        levels (see `make_levels`), as host arrays. It has an attribute `level`, the level
        of the x that a step takes; `masked` reads it. Options are the sampler's parameters.
      init: `x -> state`; what the sampler remembers between steps, any pytree.
      step: `(denoise_fn, x, state, row, key) -> (x, state, x0)`. `row` is one row of the
        table, scalars; it may call `denoise_fn` more than once. `key` is one key or `[b]`
        of them, which `normal_like` understands. `x0` is the model's belief at the
        start of the step, for previews.
    """

    rows: Callable[..., PyTree]
    init: Callable[[Array], PyTree]
    step: Callable[
        [DenoiseFn, Array, PyTree, PyTree, jax.Array], tuple[Array, PyTree, Array]
    ]

    def plan(self, levels: Level, **options: Any) -> Plan:
        """The plan along `levels`, `[s + 1]` from the noisiest to the last.

        One level alone is a plan of no steps, which returns x as it is.

        Raises:
          ValueError: for an option out of range.
          TypeError: for an option that this sampler does not have.
        """
        num_steps = len(levels.t) - 1
        table = self.rows(levels if num_steps else _IDLE_STEP, **options)
        start = Level(*(np.float32(value[0]) for value in levels))
        return Plan(
            jax.tree.map(np.float32, table), start, np.asarray(num_steps, np.int32)
        )


def pad(plan: Plan, num_rows: int) -> Plan:
    """The same plan in a table of `num_rows`: plans of one length share a program.

    Raises:
      ValueError: if the plan is longer than that.
    """
    extra = num_rows - plan.num_rows
    if extra < 0:
        raise ValueError(
            f"a plan of {plan.num_rows} steps does not fit {num_rows} rows"
        )

    def repeat_last(table: np.ndarray) -> np.ndarray:
        return np.concatenate([table, np.repeat(table[-1:], extra, axis=0)])

    return dataclasses.replace(plan, rows=jax.tree.map(repeat_last, plan.rows))


def bucket(num_steps: int) -> int:
    """The table length that `num_steps` share: 64, 128, 256, ...; idle rows cost nothing."""
    return max(64, 1 << (num_steps - 1).bit_length())


def sample(
    denoise_fn: DenoiseFn,
    sampler: Sampler,
    plan: Plan,
    x: Float[Array, "b ..."],
    key: jax.Array,
) -> Float[Array, "b ..."]:
    """Run `plan` from `x`, which is at `plan.start`; the result has its shape and dtype.

    For a plan that starts at pure noise, x is standard normal. `key` is one key, or `[b]`
    of them to draw each example's noise from its own. Not jitted: the caller jits it
    together with the model behind `denoise_fn`. Differentiable.
    """
    none = jnp.zeros((0,), jnp.int32)
    return sample_with_previews(denoise_fn, sampler, plan, x, key, none)[0]


def sample_with_previews(
    denoise_fn: DenoiseFn,
    sampler: Sampler,
    plan: Plan,
    x: Float[Array, "b ..."],
    key: jax.Array,
    preview_steps: Int[Array, " p"],
) -> tuple[Float[Array, "b ..."], Float[Array, "p b ..."]]:
    """`sample`, and the model's x0 at chosen steps (0 is the first).

    `preview_steps` may be traced; a step that is not run leaves zeros.
    """
    preview_steps = jnp.asarray(preview_steps)

    def run(carry, index, row):
        x, state, previews = carry
        x_next, state, x0 = sampler.step(
            denoise_fn, x, state, row, step_key(key, index)
        )
        chosen = (preview_steps == index).reshape((-1,) + (1,) * x.ndim)
        previews = jnp.where(chosen, x0.astype(x.dtype), previews)
        return x_next.astype(x.dtype), state, previews

    def body(carry, index_and_row):
        index, row = index_and_row
        is_active = index < plan.num_steps
        carry = jax.lax.cond(is_active, run, lambda carry, *_: carry, carry, index, row)
        return carry, None

    previews = jnp.zeros((len(preview_steps), *x.shape), x.dtype)
    rows = jax.tree.map(jnp.asarray, plan.rows)
    xs = jnp.arange(plan.num_rows), rows
    (x, _, previews), _ = jax.lax.scan(body, (x, sampler.init(x), previews), xs)
    return x, previews


def no_state(x: Array) -> tuple:
    """`init` of a sampler that remembers nothing."""
    del x
    return ()


def pairs(levels: Level) -> tuple[Level, Level]:
    """Levels `[s + 1]` as (level, next, less noisy level) of each of s steps."""
    return Level(*(v[:-1] for v in levels)), Level(*(v[1:] for v in levels))
