"""What the two sides of a drawn pair have in common: running a program, and reading tensors."""

from __future__ import annotations


class RunsProgram:
    """The forward pass of a drawn network: it runs a program."""

    def forward(self, x=None, mode="main", **named):
        return self.program.run(self, next(iter(named.values())) if x is None else x, mode)


def everything(model):
    return dict(model.named_parameters()) | dict(model.named_buffers())


def gradient_of(tensor):
    return None if tensor.grad is None else tensor.grad.numpy()


def to_array(tensor):
    return tensor.detach().numpy()


def state_of(model):
    return {name: to_array(tensor) for name, tensor in everything(model).items()}
