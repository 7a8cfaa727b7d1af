"""What stands for the divergence between posterior and prior. A *penalty* is a surrogate, a *KL* is exact."""

from torch import Tensor

from evae.distributions.kernel import Kernel


def kernel_penalty(kernel: Kernel, support_length: Tensor | float = 0.1, n: float = 100) -> Tensor:
    r"""The asymptotic penalty of a kernel posterior, B · I(K) / n per dimension (arXiv 2405.12783, eq. 8).

    It stands for KL(q‖p) in the paper's objective, but it is a large-sample limit of an upper bound, not a bound:
    at finite bandwidth the support of q exceeds that of a uniform prior and KL(q‖p) is infinite. The centre of
    the kernel does not enter. For the Epanechnikov kernel it is 3B / (5 n r), the term of eq. (10).

    Args:
        kernel: the kernel, batch shape (..., d).
        support_length: B > 0, length of the uniform prior's support (or standard deviation of a Gaussian prior).
        n: the sample size, the minibatch size M in the paper; positive.

    Returns:
        The penalty in nats, shape ``kernel.batch_shape``; sum over the last axis for an image's.
    """
    return support_length * kernel.roughness / n
