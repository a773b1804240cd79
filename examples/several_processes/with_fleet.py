r"""Phases under Paddle's fleet, which divides the optimizer's states among processes (stage 1).

Run from the root of the repository:
PYTHONPATH=. python -m paddle.distributed.launch --nproc_per_node 2 \
    examples/several_processes/with_fleet.py
"""

from pathlib import Path
from tempfile import gettempdir

import paddle
import paddle.distributed as dist
from paddle.distributed import fleet

from examples.several_processes.data_parallel import PLAN, Net, rows


def main() -> None:
    """Train six epochs; every process calls everything."""
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {
        "dp_degree": 1,
        "mp_degree": 1,
        "pp_degree": 1,
        "sharding_degree": dist.get_world_size(),
    }
    fleet.init(is_collective=True, strategy=strategy)
    model = Net()
    handle = PLAN.apply(model)
    wrapped = fleet.distributed_model(model)
    # The handle steers its own optimizer, also inside of those that fleet puts around it.
    optimizer = fleet.distributed_optimizer(handle.optimizer(paddle.optimizer.AdamW))
    for epoch in range(6):
        handle.step(epoch=epoch)
        if dist.get_rank() == 0:
            print(epoch, handle.phase.name, handle, flush=True)
        wrapped(rows(epoch)).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    verified = handle.verify()
    handle.save_trained(Path(gettempdir()) / "unifreeze_fleet.safetensors")
    if dist.get_rank() == 0:
        print(verified, flush=True)


if __name__ == "__main__":
    main()
