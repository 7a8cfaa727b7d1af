"""What the numbers of an evaluation mean, in a line below a table of them."""

from collections.abc import Iterable

from evae.runs.evaluation import Number

_ARROWS = {
    "lower": "↓ lower is better",
    "higher": "↑ higher is better",
    "reference": "≈ closest to the originals is best",
}
_NATS = "nats per image, or row"
_PENALTY = "divergence term of the objective, no KL"
_MEANINGS = {
    **dict.fromkeys(
        (
            *("bce", "reconstruction", "kl", "monte_carlo_kl"),
            *("ln p(x) ≥", "ln p(x) ≥, fitted prior", "rate, fitted prior"),
        ),
        _NATS,
    ),
    **dict.fromkeys(("penalty", "mmd"), _PENALTY),
    "mse": "per pixel, or column",
    "psnr": "dB",
    "sharpness": "variance of the Laplacian",
    "active_units": "latents whose code varies over images",
    "share_outside": "fraction of posterior samples outside the prior's support",
    "share_of_coordinates_outside": "fraction of their coordinates outside it",
    **dict.fromkeys(("frechet_distance_infinity", "fid_infinity"), "extrapolated to infinitely many images"),
    "mig": "mutual information gap, 0 to 1",
    "disentanglement": "each latent tells one factor, 0 to 1",
    "completeness": "each factor is told by one latent, 0 to 1",
    "informativeness": "of factors from codes, 1 for no error, 0 for that of a constant",
    "kernel_mmd": "squared kernel distance to the hold-out rows, 0 in the mean for the same distribution",
    **dict.fromkeys(("mmd2", "mmd2_left", "mmd2_right"), "the same, of all rows and of those in a tail"),
    **dict.fromkeys(("mmd2_p", "mmd2_left_p", "mmd2_right_p"), "p-value of the test that the distributions are one"),
    **dict.fromkeys(("left_tail_ks", "right_tail_ks"), "distance of the laws beyond a quantile, 1 where no sample is"),
    **dict.fromkeys(("left_tail_fraction", "right_tail_fraction"), "fraction of samples beyond it"),
    **dict.fromkeys(
        [f"quantile_{level}_error" for level in ("0.001", "0.999", "0.0001", "0.9999")],
        "of the samples' quantile, relative; negative where they do not reach as far",
    ),
    **dict.fromkeys(("largest", "largest_mean"), "largest |x|, and largest |E[x|z]|, in units of the data"),
    "bound_on_mean": "upper bound on |E[x|z]| from the prior's support and the decoder's Lipschitz constant",
    "nearest_training_distance": "of samples, root mean square over pixels",
    "nearest_training_distance_of_holdout": "the same of hold-out images",
}


def legend(numbers: Iterable[Number]) -> str:
    """Arrows and metrics among the numbers, in one sentence each; "" for numbers of a user's own."""
    shown = list(numbers)
    arrows = [text for better, text in _ARROWS.items() if any(number.better == better for number in shown)]
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(number.name.rpartition(": ")[2] for number in shown):
        if name in _MEANINGS:
            names.setdefault(_MEANINGS[name], []).append(name)
    meanings = [f"{', '.join(of_meaning)}: {meaning}" for meaning, of_meaning in names.items()]
    return " ".join(f"{'; '.join(texts)}." for texts in (arrows, meanings) if texts)
