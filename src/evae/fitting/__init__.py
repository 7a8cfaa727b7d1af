"""Priors fitted to the codes of a trained model, for samples and bounds."""

from evae.fitting.command import fit_prior

__all__ = ["fit_prior"]
