"""Drawing one step at a time, to be watched and stopped: for pages and notebooks.

`make_sample_fn` is one program from noise to images. Here the loop over the steps is in
Python and each step one call of a small program, the same one for all of them: so that
what the model believes can be shown meanwhile, and an exception can end it. The images
are those of `make_sample_fn`, but for float rounding.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from ldm_jax.guidance import Guidance
from ldm_jax.latent_diffusion import LatentDiffusion
from ldm_jax.nn.jit import jit
from ldm_jax.rng import step_key
from ldm_jax.sample_fn import Batch, Params, Parts
from ldm_jax.samplers.base import Plan, Sampler
from ldm_jax.samplers.masked import Known


@dataclasses.dataclass(frozen=True)
class Progress:
    """One step was taken.

    Attributes:
      step: from 1 to `num_steps`.
      num_steps: how many there will be.
      believed: the model's image at the start of the step, float32 `[b H W 3]` in
        [-1, 1]; called only if wanted, because decoding takes its time.
    """

    step: int
    num_steps: int
    believed: Callable[[], Float[Array, "b H W 3"]]


def make_program(
    ldm: LatentDiffusion,
    sampler: Sampler,
    *,
    report: Callable[[Progress], None],
    **options: Any,
) -> Callable[..., Float[Array, "b H W 3"]]:
    """A `Model.make_program`, with `report` bound, that draws step by step.

    Args:
      ldm, sampler, options: as for `make_sample_fn`.
      report: called after every step; what it raises ends the drawing.

    Returns:
      A function as `make_sample_fn` returns, compiled, without `preview_steps`.
    """
    parts = Parts(ldm, sampler, **options)
    begin, advance = _begin(parts), _advance(parts)
    decode = jit(parts.decode)

    def draw(
        params: Params,
        key: jax.Array,
        plan: Plan,
        conditioning: Batch | None = None,
        *,
        guidance: Guidance | None = None,
        negative: Batch | None = None,
        start: Float[Array, "b h w c"] | None = None,
        known: Known | None = None,
    ) -> Float[Array, "b H W 3"]:
        x, state, keys, conditions = begin(
            params, key, plan.start, conditioning, guidance, negative, start, known
        )
        num_steps = int(plan.num_steps)
        for index in range(num_steps):
            row = jax.tree.map(lambda table, index=index: table[index], plan.rows)
            x, state, x0 = advance(
                params, conditions, guidance, known, keys, x, state, row, index
            )
            jax.block_until_ready(x)
            believed = jax.tree_util.Partial(decode, params, x0)
            report(Progress(index + 1, num_steps, believed))
        return decode(params, x)

    return draw


def _begin(parts: Parts) -> Callable[..., Any]:
    """Compiled: what the first step takes, and what all of them do."""

    def begin(params, key, level, conditioning, guidance, negative, start, known):
        x, keys = parts.begin(key, level, start)
        conditions = parts.condition(params, conditioning, negative, guidance)
        state = parts.holding(known, keys["known"]).init(x)
        return x, state, keys, conditions

    return jit(begin)


def _advance(parts: Parts) -> Callable[..., Any]:
    """Compiled: one step."""

    def advance(params, conditions, guidance, known, keys, x, state, row, index):
        cond, doubled = conditions
        denoise_fn = parts.denoise_fn(params, cond, doubled, guidance)
        run = parts.holding(known, keys["known"])
        key = step_key(keys["steps"], index)
        x_next, state, x0 = run.step(denoise_fn, x, state, row, key)
        return x_next.astype(x.dtype), state, x0

    return jit(advance)
