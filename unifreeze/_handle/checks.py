"""The checks of a handle that are cheap enough for a training loop: flags, and gradients."""

from __future__ import annotations

from functools import partial

from unifreeze._arguments import checked_methods
from unifreeze._handle.in_force import PlanInForce
from unifreeze._protocol import Finding


@partial(checked_methods, public="Handle")
class Checks:
    """The part of a handle that checks a model without reading its values."""

    _in_force: PlanInForce

    def check_flags(self) -> None:
        """Check that flags, modes and objects are as the plan wrote them; cheap in every step.

        `verify` checks flags and modes, too, and the values of what is frozen besides. Nothing is
        exchanged between processes.

        Raises:
            FrozenDriftError: Naming each parameter whose flag others have switched, on or off, or
                that they replaced or removed, with what the plan says of it; and each layer that
                the plan holds in inference mode, and that runs in training mode again.

        >>> optimizer = handle.optimizer(AdamW, lr=0.001)
        >>> for _ in range(3):
        ...     handle.check_flags()
        ...     train(model, optimizer)
        """
        self._in_force.check_flags()

    def check_gradients(self) -> tuple[Finding, ...]:
        """Check the gradients that a backward pass left; call it before the optimizer clears them.

        Returns:
            One finding per trainable parameter without a gradient, or whose gradient is all zeros,
            frozen parameter with one, and gradient that is not finite; empty when all is well.
        """
        return self._in_force.check_gradients()
