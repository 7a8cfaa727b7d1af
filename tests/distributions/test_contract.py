"""What code written for torch.distributions asks of any distribution, of each of evae's: PyTorch's generic tests."""

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
    biject_to,
    transform_to,
)

from evae.distributions import (
    KERNELS,
    AggregatedPosterior,
    HypersphericalUniform,
    KernelPosterior,
    PointMass,
    PowerSpherical,
    SphericalEpanechnikov,
    SphericalPosterior,
    VonMisesFisher,
    WithBackground,
)
from evae.distributions.constraints import Ball, unit_vector

DOUBLE = torch.float64


def parameter(*values):
    return torch.tensor(values, dtype=DOUBLE).requires_grad_()


def kernel(name):
    return KERNELS[name](parameter(0.1, -0.3), parameter(0.7, 1.3))


def posterior(name, prior):
    priors = {"uniform": lambda: Uniform(parameter(-0.5, -0.5), parameter(0.5, 0.5)),
              "normal": lambda: Normal(parameter(0.0, 0.0), parameter(0.5, 0.5))}  # fmt: skip
    return KernelPosterior(kernel(name), priors[prior](), parameter(0.4, 0.4))


def ball():
    return SphericalEpanechnikov(
        parameter([0.1, 0.2, 0.3], [1.0, -2.0, 0.0]), parameter([0.7, 0.8, 0.9], [1.0, 2.0, 3])
    )


def directions():
    return parameter([1.0, 0.0, 0.0], [0.0, 0.6, -0.8])


def aggregated():
    return AggregatedPosterior(Independent(Normal(torch.eye(3, dtype=DOUBLE), 0.3), 1))


def normal_of_vectors():
    return MultivariateNormal(torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE))


CASES = {
    **{name: lambda name=name: kernel(name) for name in KERNELS},
    **{
        f"posterior {name} {prior}": lambda name=name, prior=prior: posterior(name, prior)
        for name in ("epanechnikov", "tricube", "laplace")
        for prior in ("uniform", "normal")
    },
    "ball": ball,
    "spherical posterior": lambda: SphericalPosterior(
        ball(), Independent(Uniform(parameter([-0.5] * 3, [-0.5] * 3), parameter([0.5] * 3, [0.5] * 3)), 1), 0.4
    ),
    "von Mises-Fisher": lambda: VonMisesFisher(directions(), parameter(2.0, 30.0)),
    "power spherical": lambda: PowerSpherical(directions(), parameter(2.0, 30.0)),
    "uniform on the sphere": lambda: HypersphericalUniform(3, (2,), dtype=DOUBLE),
    "point mass": lambda: PointMass(directions()),
    "aggregated": aggregated,
    "with background": lambda: WithBackground(aggregated(), normal_of_vectors(), 0.1),
}
WITHOUT_DENSITY = ("spherical posterior", "point mass")


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def q(name):
    return CASES[name]()


def test_shapes_and_types(name, q):
    for shape in ((), (4,), (4, 5)):
        draws = q.sample(shape)
        assert draws.shape == shape + q.batch_shape + q.event_shape
        assert draws.dtype == DOUBLE
        if name not in WITHOUT_DENSITY:
            assert q.log_prob(draws).shape == shape + q.batch_shape
    for moment in (q.mean, q.variance, q.stddev):
        assert moment.shape == q.batch_shape + q.event_shape
        assert moment.dtype == DOUBLE


def test_gradients_of_draws(name, q):
    assert not q.sample().requires_grad
    if q.has_rsample and name != "uniform on the sphere":
        assert q.rsample().requires_grad


def test_draws_are_in_the_support(q):
    inside = q.support.check(q.sample((50,)))
    assert inside.shape == (50, *q.batch_shape)
    assert inside.all()
    assert q.support.event_dim == len(q.event_shape)
    assert not q.support.is_discrete


def test_values_are_validated(name, q):
    q._validate_args = True
    if name in WITHOUT_DENSITY:
        with pytest.raises(NotImplementedError):
            q.log_prob(q.sample())
        return
    for wrong in (q.sample() * math.nan, torch.zeros(7, 5, dtype=DOUBLE)):
        with pytest.raises(ValueError, match=r"support|broadcast|shape"):
            q.log_prob(wrong)


def test_parameters_satisfy_their_constraints(q):
    for parameter_name, constraint in q.arg_constraints.items():
        assert constraint.check(getattr(q, parameter_name)).all()


def test_the_mode_is_the_densest_point(name, q):
    if name in (*WITHOUT_DENSITY, "uniform on the sphere", "aggregated", "with background"):
        return
    assert q.mode.shape == q.batch_shape + q.event_shape
    assert (q.log_prob(q.sample((50,))) <= q.log_prob(q.mode) + 1e-12).all()


def test_expand(name, q):
    shape = (3, *q.batch_shape)
    wide = q.expand(torch.Size(shape))
    assert wide.batch_shape == shape
    draws = wide.sample()
    assert draws.shape == shape + q.event_shape
    torch.testing.assert_close(wide.mean, q.mean.expand_as(wide.mean))
    if name not in WITHOUT_DENSITY:
        torch.testing.assert_close(wide.log_prob(draws), q.log_prob(draws))


def test_expand_keeps_a_subclass_and_fills_an_instance(q):
    """As Pyro's mixed-in classes ask for."""
    subclass = type("Mixed", (type(q),), {})
    q.__class__ = subclass
    assert type(q.expand(torch.Size([3, *q.batch_shape]))) is subclass
    instance = subclass.__new__(subclass)
    assert q.expand(torch.Size([3, *q.batch_shape]), _instance=instance) is instance


def test_copies_draw_the_same(q):
    """Also with parameters that are learned."""
    for copied in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        torch.manual_seed(3)
        draw = q.sample()
        torch.manual_seed(3)
        assert torch.equal(draw, copied.sample())


def test_inside_other_distributions(name, q):
    event = len(q.event_shape)
    moved = TransformedDistribution(q, AffineTransform(0.0, 2.0, event_dim=event))
    assert moved.sample((4,)).shape == (4, *q.batch_shape, *q.event_shape)
    together = Independent(q, len(q.batch_shape))
    assert together.sample().shape == q.batch_shape + q.event_shape
    if name not in WITHOUT_DENSITY:
        draw = q.sample()
        torch.testing.assert_close(together.log_prob(draw), q.log_prob(draw).sum())


def test_its_text_names_what_it_is(q):
    assert repr(q).startswith(type(q).__name__)
    if isinstance(q, KernelPosterior | SphericalPosterior):
        assert type(q.kernel).__name__ in repr(q)


@pytest.mark.parametrize("registry", [transform_to, biject_to])
def test_a_transform_reaches_the_support(q, registry):
    """Of draws of a normal, also large ones; torch.distributions' own rule for constrained parameters."""
    if registry is biject_to and q.support is unit_vector:
        with pytest.raises(NotImplementedError):
            registry(q.support)
        return
    onto = registry(q.support)
    for scale in (1e-3, 1.0, 1e3, 1e100):
        x = scale * torch.randn(20, *q.batch_shape, *q.event_shape, dtype=DOUBLE)
        assert q.support.check(onto(x)).all()
    y = q.sample((20,))
    torch.testing.assert_close(onto(onto.inv(y)), y)


def test_bijection_onto_a_ball():
    """Its Jacobian is autograd's; 0 is mapped to the centre, and a unit vector's direction is kept."""
    centre, scale = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE), torch.tensor([0.3, 2.0, 1.0], dtype=DOUBLE)
    onto = biject_to(Ball(centre, scale))
    x = torch.randn(3, dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(onto, x)
    torch.testing.assert_close(onto.log_abs_det_jacobian(x, onto(x)), jacobian.det().log())
    torch.testing.assert_close(onto(torch.zeros(3, dtype=DOUBLE)), centre)
    torch.testing.assert_close(onto(1e200 * x), centre + scale * x / x.norm())


def test_map_onto_the_sphere():
    onto = transform_to(unit_vector)
    for x in ([0.0, 0.0], [1e-320, 0.0], [1e200, 0.0]):
        assert onto(torch.tensor(x, dtype=DOUBLE)).tolist() == [1, 0]
    assert torch.autograd.gradcheck(onto, torch.randn(4, 3, dtype=DOUBLE, requires_grad=True))


def values(loc, concentration):
    """One draw, and all that has a gradient."""
    q = VonMisesFisher(loc, concentration, validate_args=False)
    torch.manual_seed(1)
    at = torch.ones_like(loc) / math.sqrt(loc.shape[-1])
    return q.rsample().sum() + q.log_prob(at).sum() + q.entropy().sum() + q.mean.sum() + q.variance.sum()


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # of torch's own forward mode
class TestFunctionTransforms:
    """torch.func through the von Mises-Fisher distribution."""

    @pytest.fixture
    def parameters(self):
        return directions().detach(), torch.tensor([2.0, 30.0], dtype=DOUBLE)

    def test_first_derivatives(self, parameters):
        learned = [p.clone().requires_grad_() for p in parameters]
        expected = torch.autograd.grad(values(*learned), learned)
        torch.testing.assert_close(torch.func.grad(values, (0, 1))(*parameters), expected)
        torch.testing.assert_close(torch.func.jacrev(values, (0, 1))(*parameters), expected)
        torch.testing.assert_close(torch.func.jacfwd(values, (0, 1), randomness="same")(*parameters), expected)

    def test_second_derivatives(self, parameters):
        loc, concentration = parameters

        def entropy(k):
            return VonMisesFisher(loc, k, validate_args=False).entropy().sum()

        step = 1e-4 * concentration
        slopes = [torch.func.grad(entropy)(concentration + sign * step) for sign in (1, -1)]
        expected = ((slopes[0] - slopes[1]) / (2 * step)).diag()
        for outer, inner in ((torch.func.jacfwd, torch.func.jacrev), (torch.func.jacfwd, torch.func.jacfwd)):
            torch.testing.assert_close(outer(inner(entropy))(concentration), expected, rtol=1e-5, atol=1e-9)

    def test_over_a_batch(self, parameters):
        def draw(loc, concentration):
            return VonMisesFisher(loc, concentration, validate_args=False).rsample((2000,))

        draws = torch.func.vmap(draw, randomness="different")(*parameters)
        whole = VonMisesFisher(*parameters)
        torch.testing.assert_close(draws.mean(1), whole.mean, rtol=0, atol=0.06)  # more than 6 standard errors
        shared = torch.func.vmap(draw, in_dims=(0, None), randomness="different")(parameters[0], parameters[1][1])
        assert not torch.equal(*(directions().detach().unsqueeze(1) * shared).sum(-1).unbind(0))  # cosines
        with pytest.raises(NotImplementedError, match="different"):
            torch.func.vmap(draw, randomness="same")(*parameters)

        def log_density(loc, concentration):
            return VonMisesFisher(loc, concentration, validate_args=False).log_prob(loc)

        torch.testing.assert_close(torch.func.vmap(log_density)(*parameters), whole.log_prob(parameters[0]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what tracing does itself
@pytest.mark.parametrize("case", ["posterior epanechnikov uniform", "posterior laplace normal", "von Mises-Fisher"])
def test_densities_compile_as_one_graph(case):
    q = CASES[case]()
    q._validate_args = False
    x = q.sample()
    torch._dynamo.reset()
    compiled = torch.compile(q.log_prob, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), q.log_prob(x))
