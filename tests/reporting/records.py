"""Evaluations of a run as the tests of reports and of comparisons want them."""

from dataclasses import replace

from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, Number, Section, read_evaluation, write_evaluation

BETTER = {"bce": "lower", "mse": "lower", "reconstruction": "lower", "fid": "lower", "psnr": "higher"}


def number(name, value, error=None):
    """A metric with the direction that its name has."""
    return Number(name, value, error, BETTER.get(name.rpartition(": ")[2]))


def change(run, per_image=None, name="evaluation.json", **changes):
    """Alter a run's evaluation, its values per image too where they are given."""
    folder = RunFolder(run)
    before = read_evaluation(folder)
    write_evaluation(folder, replace(before, **changes), before.values if per_image is None else per_image, name)
    return run


def measured(run, per_image=None, sections=(), **metrics):
    """Replace a run's evaluation by metrics of the reconstructions, (value, standard error), and by other sections."""
    numbers = tuple(number(name, *value) for name, value in metrics.items())
    own = [Section("reconstructions", "", numbers), *sections]
    return change(run, per_image or {}, sections={section.name: section for section in own})


def evaluation(*sections, **about):
    """Of sixteen images, unless told otherwise."""
    usual = {"model": "EVAE", "data": "blobs", "split": "holdout", "count": 16, "images": "0123456789abcdef"}
    usual |= {"transform": {"size": 16, "crop": None}, "latents": "sample", "repeats": 1, "seed": 0}
    return Evaluation(**usual | about, sections={section.name: section for section in sections})
