"""One of each kind of model, by name."""

from evae import AE, EVAE, HVAE, IWAE, RAE, T3VAE, WAE, BetaVAE, BoundedVAE, GaussianVAE, PowerSphericalVAE, VampVAE

SHAPE = (1, 16, 16)
FAMILIES = {
    "EVAE": EVAE,
    "EVAE, Gaussian prior": lambda *args, **kwargs: EVAE(*args, prior="gaussian", **kwargs),
    "EVAE, ELBO": lambda *args, **kwargs: EVAE(*args, prior="gaussian", objective="elbo", **kwargs),
    "EVAE, spherical": lambda *args, **kwargs: EVAE(*args, kernel="spherical_epanechnikov", **kwargs),
    "BoundedVAE": BoundedVAE,
    "BoundedVAE, kernel prior": lambda *args, **kwargs: BoundedVAE(*args, prior="kernel", **kwargs),
    "GaussianVAE": GaussianVAE,
    "BetaVAE": BetaVAE,
    "IWAE": IWAE,
    "IWAE, doubly": lambda *args, **kwargs: IWAE(*args, gradient="doubly-reparameterised", **kwargs),
    "WAE": WAE,
    "AE": AE,
    "RAE": RAE,
    "RAE, gradient penalty": lambda *args, **kwargs: RAE(*args, regularisation="gradient-penalty", **kwargs),
    "T3VAE": lambda *args, **kwargs: T3VAE(*args, **kwargs | {"likelihood": "student"}),  # it has no other
    "HVAE": HVAE,
    "PowerSphericalVAE": PowerSphericalVAE,
    "VampVAE": lambda *args, **kwargs: VampVAE(*args, pseudo_inputs=5, **kwargs),
}
