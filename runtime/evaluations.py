"""The model at one noise level: the sampler's own evaluation, and those that guidance adds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import comfy.samplers
import torch
from torch import Tensor, nn

from ..guidance import VEView, per_sample, scaled_vjp
from ..guidance.finite_difference import rms
from .caches import without_caches
from .gradient import followed, gradient_bytes
from .memory import GIGABYTE, is_out_of_memory, make_room, no_room_for_model, unless_out_of_memory
from .nested import runs_in
from .rng_snapshot import Snapshot

# What a sampler puts into the options of its own call to look into it.
SAMPLERS_OWN = ("sampler_post_cfg_function", "disable_cfg1_optimization")


class Evaluations:
    """The model as a denoiser on x_ve at one noise level: the sampler's own call, and others.

    Called, it is a second evaluation at a moved x; ``own`` is the sampler's. Second ones see the
    same random numbers, and leave what other nodes keep between steps as it was.

    Args:
        model: (x, timestep, model_options, seed) -> denoised, the rest of ComfyUI's call.
        guider: ComfyUI's.
        x: the sampler's own.
        timestep: [B].
        view: of x at this timestep.
        options: model_options of the call.
        seed: of the run.
    """

    def __init__(
        self,
        model: Any,
        guider: Any,
        x: Tensor,
        timestep: Tensor,
        view: VEView,
        options: dict[str, Any],
        seed: int | None,
    ) -> None:
        self.model, self.guider, self.x, self.timestep = model, guider, x, timestep
        self.view, self.options, self.seed = view, options, seed
        self.x_ve = view.to_ve(x)
        self.has_own = False
        self.branches: list[Tensor] = []  # of the own call: with and without the prompt
        self.before = Snapshot(self._options_of_the_user(), x.device)
        self.is_short = False  # of memory: the branches are evaluated one after the other
        self.under = runs_in(options)  # guidance that answers the evaluations of this one

    @property
    def is_watched(self) -> bool:
        """Whether the sampler's own call has to be made, because somebody looks into it.

        CFG++ samplers do, and guidance under this one follows it from step to step.
        """
        own = self.guider.model_options
        return bool(self.under) or any(
            self.options.get(name) != own.get(name) for name in SAMPLERS_OWN
        )

    def own(self) -> Tensor:
        """D(x): the sampler's call itself, with all that the sampler put into its options."""
        denoised = self._evaluated(self.x, self._branch_by(self.options, self._both))
        self.has_own = True
        return denoised

    def __call__(self, x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
        """D at a moved x."""
        return self._second(x_ve, self._options_of_the_user())

    def conditional(self, x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
        """The output at a moved x, as if both branches moved like the one with the prompt.

        Everything that acts on the branches, or on what becomes of them, runs as ever. Where there
        are no two branches, or a guider of another kind keeps them to itself, both are evaluated.
        """
        options = self._options_of_the_user()
        if self.branches:
            options = self._branch_by(options, self._one)
        return self._second(x_ve, options)

    def _second(self, x_ve: Tensor, options: dict[str, Any]) -> Tensor:
        mm.throw_exception_if_processing_interrupted()
        with self.before.again():
            return self._evaluated(self.view.from_ve(x_ve), options)

    def _evaluated(self, x: Tensor, options: dict[str, Any]) -> Tensor:
        """The model's answer; where memory runs out, once more with as little of it as will do.

        Raises:
            torch.cuda.OutOfMemoryError: it does not fit even so.
        """
        if self.under:  # it makes room for itself, and says what does not fit
            guided: Tensor = self.model(x, self.timestep, options, self.seed)
            return guided
        answer = self._try(x, options)
        if answer is None:
            logging.warning(
                "LAGS: not enough memory for the diffusion model beside the weight's models; "
                "trying again without them, and one branch at a time."
            )
            make_room(self.guider)
            self.is_short = True
            with self.before.rewound():
                answer = self._try(x, self._branch_by(options, self._each))
        if answer is None:
            remedy = "Make the image or the batch smaller"
            if self.has_own:  # it was a second one that did not fit
                remedy += ", or take LAGS in mode 'fast', which evaluates the model once a step"
            raise no_room_for_model(self.guider, x.shape, f"{remedy}.")
        return answer

    def _try(self, x: Tensor, options: dict[str, Any]) -> Tensor | None:
        """The model's answer, or None where memory ran out."""
        return unless_out_of_memory(lambda: self.model(x, self.timestep, options, self.seed))

    def _branch_by(self, options: dict[str, Any], function: Any) -> dict[str, Any]:
        """model_options whose branches a function evaluates, unless another pack's does already.

        Those of guidance under this one are that one's own.
        """
        if self.under:
            return options
        return {"sampler_calc_cond_batch_function": function, **options}

    def _both(self, args: dict[str, Any]) -> list[Tensor]:
        """The branches, noted where there are two."""
        conds, outputs = args["conds"], self._each(args)
        if len(conds) == 2 and conds[1] is not None:
            self.branches = [output.clone() for output in outputs]
        return outputs

    def _each(self, args: dict[str, Any]) -> list[Tensor]:
        """ComfyUI's own evaluation of the branches; short of memory, one after the other."""
        conds, options = args["conds"], self._without(args["model_options"])

        def outputs(conds: list[Any]) -> list[Tensor]:
            return comfy.samplers.calc_cond_batch(
                args["model"], conds, args["input"], args["sigma"], options
            )

        if not self.is_short:
            return outputs(conds)
        # Each keeps its place: patches tell the branches by it.
        alone = [[c if i == k else None for i, c in enumerate(conds)] for k in range(len(conds))]
        found = []
        for k, branches in enumerate(alone):
            with self.before.rewound():  # in one batch patches draw once for both
                found.append(outputs(branches)[k])
        return found

    def _one(self, args: dict[str, Any]) -> list[Tensor]:
        """The branch with the prompt; the other is taken to move as far."""
        options = self._without(args["model_options"])
        (cond,) = comfy.samplers.calc_cond_batch(
            args["model"], args["conds"][:1], args["input"], args["sigma"], options
        )
        before, other = self.branches
        return [cond, other + (cond - before)]

    @staticmethod
    def _without(options: dict[str, Any]) -> dict[str, Any]:
        """model_options as they were before the branches were looked at."""
        name = "sampler_calc_cond_batch_function"
        return {key: value for key, value in options.items() if key != name}

    def _options_of_the_user(self) -> dict[str, Any]:
        """model_options without caches, and without what the sampler put in for its own call.

        CFG++ samplers hook the call to catch the unconditional prediction; a second one must not
        overwrite what they caught.
        """
        own = self.guider.model_options
        options = dict(without_caches(self.options))
        for name in SAMPLERS_OWN:
            options.pop(name, None)
            if name in own:
                options[name] = own[name]
        return options


class DifferentiableEvaluations(Evaluations):
    """Evaluations that a gradient can go back through, for DPS and FreeDoM.

    Args:
        networks: everything that an evaluation runs: the model, its ControlNets.
        cfg: scale of classifier-free guidance.

    The others as for ``Evaluations``.
    """

    def __init__(self, *evaluation: Any, networks: list[nn.Module], cfg: float) -> None:
        super().__init__(*evaluation)
        self.networks, self.cfg = networks, cfg

    def correction(self) -> Tensor | None:
        """cfg (D_conditional - D_unconditional) of the last evaluation; None with one branch."""
        if not self.branches:
            return None
        conditional, unconditional = self.branches
        return self.cfg * (conditional - unconditional).detach()

    def vjp(self, x_ve: Tensor, sigma_ve: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """(D(x), the map from v to J^T v, to be called once).

        Raises:
            ValueError: autograd cannot follow something on the way.
            torch.cuda.OutOfMemoryError: it does not fit.
        """
        mm.throw_exception_if_processing_interrupted()
        with self._followed():
            view = VEView(self.view.signal.clone(), self.view.noise.clone())
            leaf = x_ve.detach().clone().requires_grad_()
            options = self._branch_by(self.options, self._both)
            denoised = self.model(view.from_ve(leaf), self.timestep.clone(), options, self.seed)

        def pull(v: Tensor) -> Tensor:
            mm.throw_exception_if_processing_interrupted()
            with self._followed():
                return scaled_vjp(denoised, leaf, v.float(), lambda v: per_sample(rms(v), v))

        return denoised.detach(), pull

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Inside it autograd follows the networks; they are as before after it."""
        try:
            with followed(self.networks, "DPS and FreeDoM", "take LAGS without a method, or LiDAR"):
                yield
        except Exception as error:
            if is_out_of_memory(error):
                raise self._no_room() from error
            raise

    def _no_room(self) -> torch.cuda.OutOfMemoryError:
        guider, shape = self.guider, self.x.shape
        free = mm.get_free_memory(guider.model_patcher.load_device)
        return torch.cuda.OutOfMemoryError(
            "The gradient through the diffusion model does not fit into memory: for "
            f"{shape[0]} images it needs about {gradient_bytes(guider, shape) / GIGABYTE:.2f} "
            f"GB, and {free / GIGABYTE:.2f} GB are free. Make the image or the batch smaller, or "
            "take LAGS without a method: it needs no such gradient."
        )
