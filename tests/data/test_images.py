"""Splits as ``Images``: validation images held back from the training images, and what all splits can do."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from evae.data import Images, open_store
from evae.errors import ConfigError


@pytest.fixture
def store(blobs):
    return open_store(blobs, image_size=16)


@pytest.fixture
def streamed(tmp_path):
    rng, buffers = np.random.default_rng(0), [io.BytesIO() for _ in range(60)]
    for buffer in buffers:
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(buffer, "PNG")
    table = pa.table({"image": [buffer.getvalue() for buffer in buffers]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    return open_store(f"hf-stream:{tmp_path}")


class TestValidation:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.floats(1 / 48, 47 / 48), st.integers(0, 2**63 - 1))
    def test_two_disjoint_parts_of_the_training_images(self, store, fraction, seed):
        split, again = (store.split_validation(fraction, seed) for _ in range(2))
        assert len(split.validation) == round(48 * fraction)
        assert sorted(split.train.names + split.validation.names) == sorted(store.train.names)
        assert (split.train.names, split.validation.names) == (again.train.names, again.validation.names)
        assert (split.train.split, split.validation.split) == ("train", "validation")
        assert replace(split, train=store.train, validation=None) == store
        for images in (split.train, split.validation):
            chosen = [store.train.names.index(name) for name in images.names]
            assert chosen == sorted(chosen)
            assert images.shape == (len(images), *store.image_shape) == images.read(slice(None)).shape
            assert np.array_equal(images.read(slice(None)), store.train.read(np.array(chosen)))
            assert np.array_equal(images.labels, store.train.labels[chosen])
            assert np.array_equal(images.read(np.array([-1, 0])), store.train.read(np.array([chosen[-1], chosen[0]])))

    def test_another_seed_holds_back_others(self, store):
        held = {tuple(store.split_validation(0.25, seed).validation.names) for seed in range(20)}
        assert len(held) == 20

    @pytest.mark.parametrize("seed", [0, 7, 2**40])
    def test_is_independent_of_the_order_of_batches(self, store, seed):
        """The draw repeats none of the first epochs' permutations."""
        held = [int(name) for name in store.split_validation(0.25, seed).validation.names]
        for epoch in range(200):
            assert sorted(store.train.indices(seed, epoch, 0, 48)[:12]) != held

    @pytest.mark.parametrize(("fraction", "size"), [(0.25, 12), (0.5, 8)])
    def test_an_epoch_is_a_permutation_of_the_part(self, store, fraction, size):
        split = store.split_validation(fraction, 0)
        for images in (split.train, split.validation):
            steps = [images.indices(3, 1, step, size) for step in range(len(images) // size)]
            assert sorted(np.concatenate(steps)) == list(range(len(images)))
            assert len(steps[0]) == size

    def test_a_part_can_be_divided_again(self, store):
        twice = store.split_validation(0.5, 0).split_validation(0.5, 1)
        assert len(twice.train) == len(twice.validation) == 12
        assert not set(twice.train.names) & set(twice.validation.names)

    def test_no_fraction_is_no_split(self, store):
        assert store.split_validation(0, 3) is store
        assert store.validation is None

    @pytest.mark.parametrize(
        ("fraction", "message"),
        [
            (-0.1, "validation must be between 0 and 1, not -0.1"),
            (1.0, "validation must be between 0 and 1, not 1.0"),
            (float("nan"), "validation must be between 0 and 1, not nan"),
            (0.01, "validation 0.01 of 48 training images leaves none for validation"),
            (0.99, "validation 0.99 of 48 training images leaves none for training"),
        ],
    )
    def test_fractions_that_cannot_be(self, store, fraction, message):
        with pytest.raises(ConfigError, match=message):
            store.split_validation(fraction, 0)

    def test_seeds_that_cannot_be(self, store):
        with pytest.raises(ConfigError, match="seed must"):
            store.split_validation(0.1, -1)

    def test_streamed_images_cannot_be_split(self, streamed):
        assert streamed.split_validation(0.0, 0) is streamed
        with pytest.raises(ConfigError, match="--validation cannot split streamed training images; leave out"):
            streamed.split_validation(0.1, 0)


def test_every_split_does_what_the_protocol_says(store, streamed):
    split = store.split_validation(0.25, 0)
    every: list[Images] = [store.train, store.holdout, split.train, split.validation, streamed.train, streamed.holdout]
    for images in every:
        images.prefetch(0, 0, 0, 4)
        batch = images.read(images.indices(0, 0, 0, 4))
        images.cancel_prefetch()
        assert batch.shape == (4, *images.shape[1:])
        assert batch.dtype == np.uint8
        assert len(images) == images.shape[0] == len(images.labels) == len(images.names)
        assert len(images.bad) == 0
        assert images.is_local == (images is not streamed.train)
        batch[:] = 0  # a copy
        assert images.read(images.indices(0, 0, 0, 4)).any()
