"""Loops that change the code of frozen modules, or what it reads by name, between two steps."""

from __future__ import annotations

import math

from tests.support.cache_attacks import Attack, W, body_and_head, line, module, net

FACTOR = 1.0


class Config:
    """Settings at the top of a file, as many projects have them."""

    def __init__(self, scale):
        self.scale = scale


CONFIG = Config(1.0)


def bend(x):
    return x * 2


def bend_otherwise(x):
    return x * 3


def bend_by_the_constant(x):
    return bend(x) * FACTOR


def at_step(number, do):
    """Return what a loop does before each step: something before one of them."""

    def each(model, step):
        if step == number:
            do(model)

    return each


def named(name, value):
    """Return what binds a name at the top of this file to another value."""
    return lambda model: globals().__setitem__(name, value)


def fresh():
    """Bind all names to what they were."""
    globals().update(FACTOR=1.0, CONFIG=Config(1.0), bend=_BEND, DEFAULTS=Defaults())
    Defaults.scale = 1.0


def constant_of_the_file(fw):
    fresh()
    body = module(fw, lambda n, x: n.a(x) * FACTOR, a=line(fw))
    return Attack(body_and_head(fw, body), each=at_step(4, named("FACTOR", 2.0)))


def constant_that_only_a_helper_reads(fw):
    fresh()
    body = module(fw, lambda n, x: bend_by_the_constant(n.a(x)), a=line(fw))
    return Attack(body_and_head(fw, body), each=at_step(4, named("FACTOR", 2.0)))


def helper_of_a_helper_replaced(fw):
    fresh()
    body = module(fw, lambda n, x: bend_by_the_constant(n.a(x)), a=line(fw))
    return Attack(body_and_head(fw, body), each=at_step(4, named("bend", bend_otherwise)))


def function_of_the_file_replaced(fw):
    fresh()
    body = module(fw, lambda n, x: bend(n.a(x)), a=line(fw))
    return Attack(body_and_head(fw, body), each=at_step(4, named("bend", bend_otherwise)))


def settings_of_the_file_changed(fw):
    fresh()
    body = module(fw, lambda n, x: n.a(x) * CONFIG.scale, a=line(fw))
    return Attack(
        body_and_head(fw, body), each=at_step(4, lambda model: setattr(CONFIG, "scale", 2.0))
    )


def settings_of_the_file_replaced(fw):
    fresh()
    body = module(fw, lambda n, x: n.a(x) * CONFIG.scale, a=line(fw))
    return Attack(body_and_head(fw, body), each=at_step(4, named("CONFIG", Config(2.0))))


def own_class(fw):
    class Own(fw.Module):
        scale = 1.0

        def __init__(self):
            super().__init__()
            self.a = line(fw)

        @property
        def factor(self):
            return 1.0

        def bent(self, x):
            return x * 2 * self.factor

        def forward(self, x):
            return self.bent(self.a(x)) * self.scale

    return Own


def constant_of_the_class(fw):
    body = own_class(fw)()
    return Attack(
        body_and_head(fw, body),
        each=at_step(4, lambda model: setattr(type(model.body), "scale", 2.0)),
    )


def constant_of_a_base_hidden_by_the_class(fw):
    class Derived(own_class(fw)):
        pass

    return Attack(
        body_and_head(fw, Derived()), each=at_step(4, lambda model: setattr(Derived, "scale", 2.0))
    )


def name_that_a_class_gets_first_and_then_changes(fw):
    """When it comes, it says what the base says; the change is later."""

    class Derived(own_class(fw)):
        pass

    def each(model, step):
        if step in (4, 6):
            Derived.scale = 1.0 if step == 4 else 2.0

    return Attack(body_and_head(fw, Derived()), each=each)


class Defaults:
    """Settings that are written on the class, until somebody sets one on the object."""

    scale = 1.0


DEFAULTS = Defaults()


def default_of_settings_hidden_by_the_object(fw):
    fresh()
    body = module(fw, lambda n, x: n.a(x) * DEFAULTS.scale, a=line(fw))
    return Attack(
        body_and_head(fw, body), each=at_step(4, lambda model: setattr(DEFAULTS, "scale", 2.0))
    )


def default_of_settings_changed_on_the_class(fw):
    fresh()
    body = module(fw, lambda n, x: n.a(x) * DEFAULTS.scale, a=line(fw))
    return Attack(
        body_and_head(fw, body), each=at_step(4, lambda model: setattr(Defaults, "scale", 2.0))
    )


def method_of_the_class_replaced(fw):
    def otherwise(self, x):
        return x * 3

    return Attack(
        body_and_head(fw, own_class(fw)()),
        each=at_step(4, lambda model: setattr(type(model.body), "bent", otherwise)),
    )


def property_of_the_class_replaced(fw):
    return Attack(
        body_and_head(fw, own_class(fw)()),
        each=at_step(4, lambda m: setattr(type(m.body), "factor", property(lambda self: 3.0))),
    )


def constant_that_a_property_reads(fw):
    fresh()

    class Own(own_class(fw)):
        @property
        def factor(self):
            return FACTOR

    return Attack(body_and_head(fw, Own()), each=at_step(4, named("FACTOR", 2.0)))


def proxy_that_stands_for_nothing_yet(fw):
    """A name is bound to an object that fails whatever it is asked."""
    fresh()
    body = module(fw, lambda n, x: PROXY * n.a(x), a=line(fw))
    return Attack(body_and_head(fw, body))


class Proxy:
    """Multiplies, and answers no other question."""

    __slots__ = ()

    def __mul__(self, other):
        return other

    def __getattribute__(self, name):
        raise RuntimeError(f"nobody has said yet what this stands for: {name}")


PROXY = Proxy()


def forward_of_the_class_replaced(fw):
    def otherwise(self, x):
        return self.a(x) * 5

    return Attack(
        body_and_head(fw, own_class(fw)()),
        each=at_step(4, lambda model: setattr(type(model.body), "forward", otherwise)),
    )


def forward_of_a_live_class_replaced(fw):
    """What trains may change its code: without a cache the new code runs, too."""
    live = own_class(fw)()

    def otherwise(self, x):
        return self.a(x) * 5

    model = net(fw, lambda n, x: n.head(n.live(n.body(x))), body=line(fw), live=live)
    return Attack(
        model,
        each=at_step(4, lambda model: setattr(type(model.live), "forward", otherwise)),
        rule='path:"head" | path:"live"',
    )


def defaults_of_a_function_changed(fw):
    def scaled(x, scale=1.0):
        return x * scale

    body = module(fw, lambda n, x: scaled(n.a(x)), a=line(fw))
    return Attack(
        body_and_head(fw, body),
        each=at_step(4, lambda model: setattr(scaled, "__defaults__", (2.0,))),
    )


def code_of_a_function_changed(fw):
    def scaled(x):
        return x * 2

    body = module(fw, lambda n, x: scaled(n.a(x)), a=line(fw))
    other = (lambda x: x * 3).__code__
    return Attack(
        body_and_head(fw, body), each=at_step(4, lambda model: setattr(scaled, "__code__", other))
    )


def constant_that_live_code_reads(fw):
    """A name that only what trains reads may change as it likes."""
    fresh()
    model = net(fw, lambda n, x: n.head(n.body(x)) * FACTOR, body=line(fw))
    each = lambda model, step: globals().__setitem__("FACTOR", 1 + math.sin(step) / W)  # noqa: E731
    return Attack(model, each=each)


_BEND = bend
ATTACKS = [
    constant_of_the_file, constant_that_only_a_helper_reads, helper_of_a_helper_replaced,
    function_of_the_file_replaced, settings_of_the_file_changed, settings_of_the_file_replaced,
    name_that_a_class_gets_first_and_then_changes, default_of_settings_hidden_by_the_object,
    default_of_settings_changed_on_the_class,
    constant_of_the_class, constant_of_a_base_hidden_by_the_class, method_of_the_class_replaced,
    property_of_the_class_replaced, constant_that_a_property_reads,
    proxy_that_stands_for_nothing_yet, forward_of_the_class_replaced,
    forward_of_a_live_class_replaced, defaults_of_a_function_changed, code_of_a_function_changed,
    constant_that_live_code_reads,
]  # fmt: skip
