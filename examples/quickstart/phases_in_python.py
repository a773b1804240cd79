"""The plan of phases.yaml, built in Python."""

import unifreeze as uf

plan = (
    uf.FreezePlan()
    .phase("head", rules={"only": "head"}, lr=1e-3)
    .phase("top", at={"epoch": 2}, add={"train": "stages[-1]"}, lr=1e-4, weight_decay=1e-4)
    .phase("full", when={"metric": "val_loss", "stalled_for": 2}, add={"train": "all"}, lr=1e-5)
)
print(plan)
