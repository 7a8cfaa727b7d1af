"""Runs on the Hugging Face hub: published with a model card, without what is private, and loaded into a run folder."""

from evae.hub.command import pull, push

__all__ = ["pull", "push"]
