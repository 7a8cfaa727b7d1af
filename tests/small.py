"""Runs that train in a second."""

from functools import partial

from evae import train


def trained(family, data, out, **options):
    small = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu"}
    return train(data, out, partial(family, latent_dim=3), **small | options)
