"""The network in Paddle: matrices are stored output by input, and layers registered backwards."""

import paddle
from paddle import nn


def parameter(layer, shape, mean=0.0, deviation=1.0):
    normal = nn.initializer.Normal(mean, deviation)
    return layer.create_parameter(list(shape), default_initializer=normal)


class DenseUnit(nn.Layer):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.offset = parameter(self, [n_out], deviation=0.1)
        self.kernel = parameter(self, [n_out, n_in], deviation=n_in**-0.5)

    def forward(self, x):
        return paddle.tanh(x @ self.kernel.T + self.offset)


class Sphere(nn.Layer):
    def __init__(self, width):
        super().__init__()
        self.s = parameter(self, [width], 1.0, 0.1)
        self.register_buffer("mu", paddle.zeros([width]))
        self.register_buffer("sigma2", paddle.ones([width]))

    def forward(self, x):
        if self.training:
            with paddle.no_grad():
                self.mu.set_value(0.9 * self.mu + 0.1 * x.mean(0))
                self.sigma2.set_value(0.9 * self.sigma2 + 0.1 * x.var(0, unbiased=False))
        return self.s * (x - self.mu) / (self.sigma2 + 1e-5) ** 0.5


class Shake(nn.Layer):
    """Draws random numbers while training, as a dropout does."""

    def forward(self, x):
        return x * paddle.uniform(x.shape, x.dtype, 0.5, 1.5) if self.training else x


class Unit(nn.Layer):
    def __init__(self, width):
        super().__init__()
        self.contract = DenseUnit(2 * width, width)
        self.shake = Shake()
        self.sphere = Sphere(2 * width)
        self.expand = DenseUnit(width, 2 * width)

    def forward(self, x):
        return x + self.contract(self.shake(self.sphere(self.expand(x))))


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.idle = DenseUnit(8, 8)
        self.out, self.mix = DenseUnit(8, 4), DenseUnit(8, 8)
        self.units = nn.LayerList([Unit(8) for _ in range(3)])
        self.enter = DenseUnit(6, 8)

    def forward(self, x):
        x = self.enter(x)
        for unit in self.units:
            x = unit(x)
        return self.out(self.mix(x))


LINEAR, NORM, DROPOUT = DenseUnit, Sphere, Shake
WAY = "out x in"
ROLES = {
    DenseUnit: {"offset": "bias"},
    Sphere: {"s": "weight", "mu": "mean", "sigma2": "var"},
}


class Layer(nn.Layer):
    """A layer that holds tensors of given shapes."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.add_parameter(name, parameter(self, shape))

    def forward(self, x):
        return x


class Derived(Layer):
    pass


class Dense(nn.Linear):
    pass


def net_of(**layers):
    """Return a model that holds these layers, with a head behind them."""
    return nn.LayerDict({**layers, "head": nn.Linear(3, 2)})


class Average(nn.Layer):
    """A norm that keeps its statistics among its parameters."""

    def __init__(self, width):
        super().__init__()
        self.mean, self.spread = parameter(self, [width], 0, 0.0), parameter(self, [width], 1, 0.0)
        self.mean.stop_gradient = self.spread.stop_gradient = True
        self.g = parameter(self, [width], 1, 0.0)

    def forward(self, x):
        if self.training:
            with paddle.no_grad():
                self.mean.set_value(0.9 * self.mean + 0.1 * x.mean(0))
                self.spread.set_value(0.9 * self.spread + 0.1 * x.var(0, unbiased=False))
        return self.g * (x - self.mean) / (self.spread + 1e-5) ** 0.5


def averaged():
    """Return a model of such a norm between two layers."""
    return nn.Sequential(nn.Linear(6, 3), Average(3), nn.Linear(3, 2))
