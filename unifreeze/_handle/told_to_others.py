"""What a handle says of its run to loggers and readers: numbers to log, a paragraph for a card."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np

from unifreeze._arguments import checked_methods
from unifreeze._handle.in_force import PlanInForce
from unifreeze._handle.training import Training
from unifreeze.errors import FrozenDriftError, counted


@partial(checked_methods, public="Handle")
class ToldToOthers:
    """The part of a handle that describes its run to others."""

    _in_force: PlanInForce
    _training: Training

    def scalars(self) -> dict[str, float]:
        """Return what a logger plots: the number of the phase, the trained share, the rates.

        Give it to any logger: `self.log_dict(handle.scalars())` in Lightning,
        `accelerator.log(handle.scalars(), step=step)`, `writer.add_scalar` in a loop. Trainers log
        the optimizer's own rate; here stands the rate that the next step uses, as in `rates`.

        Returns:
            `unifreeze/phase` (counted from 0; plans with phases only), `unifreeze/trained_share`
            (0 to 1, of all values), and `unifreeze/lr/NAME` for each group, if the handle has an
            optimizer.

        >>> optimizer = handle.optimizer(AdamW, lr=0.001)
        >>> handle.scalars()
        {'unifreeze/trained_share': 0.09859154929577464, 'unifreeze/lr/lr x 1': 0.001}
        """
        trained, total = self._in_force.resolution.counts()
        found: dict[str, float] = {}
        if self._in_force.phases.schedule.named_phase is not None:
            found["unifreeze/phase"] = float(self._in_force.phases.schedule.phase)
        found["unifreeze/trained_share"] = trained / total if total else 0.0
        if self._training.link.optimizer is not None:
            rates = self._training.rates()
            found |= {f"unifreeze/lr/{name}": rate for name, rate in rates.items()}
        return found

    def model_card(self) -> str:
        """Return a paragraph for a model card, as Markdown: what trained, under which plan.

        What is frozen is verified first, and the text says how that came out.

        >>> print(handle.model_card())  # doctest: +ELLIPSIS
        ## What was trained
        <BLANKLINE>
        21 of 213 values (9.9 %) were trained, with torch and unifreeze ...
        """
        plan = self._in_force
        masks = [resolution.trainable for resolution in plan.phases.so_far]
        sizes = plan.resolution.spec.counts
        trained, total = int(sizes[np.any(masks, axis=0)].sum()), int(sizes.sum())
        share = 100 * trained / total if total else 0.0
        lines = [
            "## What was trained",
            "",
            f"{trained:,} of {total:,} values ({share:.1f} %) were trained, with "
            f"{plan.backend.name} and unifreeze "
            f"{sys.modules['unifreeze'].__version__}{self._phase()}. {self._kept()} "
            "This is the plan:",
            "",
            "```yaml",
            plan.phases.expanded.to_yaml().rstrip(),
            "```",
        ]
        return "\n".join([*lines, *self._measured()])

    def _phase(self) -> str:
        phase = self._in_force.phases.schedule.named_phase
        return f", up to the phase {phase.name!r}" if phase else ""

    def _kept(self) -> str:
        """Say whether what is frozen has kept its bits."""
        try:
            verified = self._in_force.verify("call handle.model_card")
        except FrozenDriftError as error:
            return f"What was frozen did not all keep its values: {error.fact}."
        return (
            f"{counted(verified.parameters, 'frozen parameter')} and "
            f"{counted(verified.states, 'held state tensor')} are bit for bit those of the base."
        )

    def _measured(self) -> list[str]:
        report = self._training.report(None)
        if not report.metrics:
            return []
        return ["", "Measured in training:", "", "```text", str(report), "```"]
