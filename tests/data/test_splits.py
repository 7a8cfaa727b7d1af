"""Spellings of splits, at any level, and what looks like splits and is none."""

import pytest

from evae.data.splits import choose, divide, kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "train") for name in ("train", "Training", "TRAIN-00000-of-00002", "train2017", "trainA", "x_train")),
        *((name, "train") for name in ("imagesTr", "trainset", "seg_train", "trainval", "ILSVRC2012_img_train", "trn")),
        *((name, "test") for name in ("Testing", "testset", "imagesTs", "Xtest", "test1", "test_images", "testA")),
        *((name, "validation") for name in ("val", "valid", "Validation", "val2017", "valset", "DIV2K_valid_HR")),
        *((name, "dev") for name in ("dev", "devset", "development")),
        *((name, "holdout") for name in ("holdout", "hold-out", "held_out", "HeldOut")),
        *((name, "eval") for name in ("eval", "evaluation")),
        *((name, None) for name in ("trainer", "station", "contest", "latest", "value", "device", "tr", "ts", "")),
    ],
)
def test_kinds(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("names", "train", "holdout"),
    [
        (["train", "test", "val"], ["train"], ["test"]),
        (["Training", "dev"], ["Training"], ["dev"]),
        (["trainA", "trainB", "testA", "testB"], ["trainA", "trainB"], ["testA", "testB"]),
        (["seg_train", "seg_test", "seg_pred"], ["seg_train"], ["seg_test"]),
        (["train_clean", "test_other"], ["train_clean"], ["test_other"]),
        (["train", "bus", "airplane"], [], []),
        (["train station", "test tube", "house"], [], []),
        (["test", "val"], [], []),
    ],
)
def test_choice(names, train, holdout):
    chosen = choose(names, strict=True)
    assert sorted(name for name, split in chosen.items() if split == "train") == train
    assert sorted(name for name, split in chosen.items() if split == "holdout") == holdout


class TestDivision:
    def test_the_first_level_with_both(self):
        parts = {i: path.split("/") for i, path in enumerate(["a/train/x", "a/test/y", "b/train/x", "b/test/z"])}
        division = divide(parts)
        assert division.splits == {0: "train", 1: "holdout", 2: "train", 3: "holdout"}
        assert division.level == 1
        assert not division.ignored

    def test_a_lower_level_of_a_few_items_is_not_taken_but_told(self):
        parts = {i: ["class", str(i)] for i in range(9)} | {10: ["odd", "train"], 11: ["odd", "test"]}
        division = divide(parts)
        assert division.level is None
        assert set(division.splits.values()) == {None}
        assert division.ignored == ("test", "train")

    @pytest.mark.parametrize(("names", "told"), [(["train", "bus"], ("train",)), (["train"], ()), (["cat", "dog"], ())])
    def test_what_looks_like_splits_beside_others_is_told(self, names, told):
        assert divide({name: [name] for name in names}).ignored == told

    def test_what_repeats_the_split_is_not_told(self):
        parts = {i: path.split("/") for i, path in enumerate(["train/seg_train", "test/seg_test"])}
        assert divide(parts).ignored == ()

    def test_no_items(self):
        assert divide({}).splits == {}
