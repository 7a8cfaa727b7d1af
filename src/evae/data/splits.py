"""Which part of a data set a name stands for: train2017, Testing, imagesTr, x_val, dev, ..."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, Literal, TypeVar

from evae.data.images import Split

Kind = Literal["train", "test", "validation", "dev", "holdout", "eval"]

_SUFFIX = r"(sets?|data|images?|imgs?)?"
_SPELLINGS: dict[Kind, str] = {
    "train": r"train(ing|s|ed|val)?|trn",
    "test": r"test(ing|s|ed)?|tst",
    "validation": r"val|valid(ation|ate|ated|s)?|vals",
    "dev": r"dev(el|elopment)?",
    "holdout": r"h[eo]ldouts?",
    "eval": r"eval(uation|uate|s)?",
}
_ABBREVIATED: dict[str, Kind] = {"tr": "train", "ts": "test", "te": "test"}  # at the end of other words: imagesTr
# Words that do not tell one part of a data set from another.
_GENERIC = frozenset(
    {"set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"}
    | {"split", "of", "folder", "dir", "part", "shard", "the", "official", "full", "final"}
)

K = TypeVar("K", bound=Hashable)


def words(name: str) -> list[str]:
    """The words of a name, in lower case; a change from lower to upper case begins another one."""
    joined = re.sub(r"(?i)h([eo])ld[\W_]*out", r"h\1ldout", name)
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", joined)]


@lru_cache(2**16)
def kind_of(name: str) -> Kind | None:
    """The part of a data set that a name tells by one of its words; the first where there are several."""
    own = words(name)
    for word in own:
        for kind, spellings in _SPELLINGS.items():
            if re.fullmatch(rf"[xy]?({spellings}){_SUFFIX}", word):
                return kind
    return _ABBREVIATED.get(own[-1]) if len(own) > 1 else None


@lru_cache(2**16)
def _remainder(name: str) -> frozenset[str]:
    """The words of a name that say something else than its part of the data set."""
    own = words(name)
    told = {word for word in own if kind_of(word)} or set(own[-1:])
    return frozenset(word for word in own if word not in told | _GENERIC and len(word) > 1)


def choose(names: Iterable[str], strict: bool = False) -> dict[str, Split]:
    """The names among ``names`` that are the training and the hold-out split; empty where there are not both.

    The hold-out split is the first kind that there is of test, validation, dev, holdout and eval. With ``strict``, a
    training and a hold-out name have to agree in their other words (``seg_train``, ``seg_test``), unless all names
    tell a split: the classes "train station" and "test tube" are no splits.
    """
    kinds = {name: kind for name in names if (kind := kind_of(name))}
    if strict and set(names) - set(kinds):
        kinds = _agreeing(kinds)
    found = set(kinds.values())
    holdout = next((kind for kind in _SPELLINGS if kind in found and kind != "train"), None)
    if "train" not in found or holdout is None:
        return {}
    return {
        name: "train" if kind == "train" else "holdout" for name, kind in kinds.items() if kind in ("train", holdout)
    }


def _agreeing(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """The names whose other words are those of a training and of a hold-out name."""
    rest = {name: _remainder(name) for name in kinds}
    train = {rest[name] for name, kind in kinds.items() if kind == "train"}
    held = {rest[name] for name, kind in kinds.items() if kind != "train"}
    return {name: kind for name, kind in kinds.items() if rest[name] in train & held}


@dataclass(frozen=True)
class Division(Generic[K]):
    """The split of each item that has one, where it comes from, and what looks like splits and is not taken."""

    splits: dict[K, Split | None]
    level: int | None = None  # index of the part that told it; None where there are no splits
    names: dict[str, Split] = field(default_factory=dict)  # the parts that told it
    ignored: tuple[str, ...] = ()  # parts that look like splits, at levels that were not taken


def divide(parts: Mapping[K, Sequence[str]], strict: bool = True, levels: Iterable[int] | None = None) -> Division[K]:
    """Divide items by the parts of their paths: the first level that has both a training and a hold-out name.

    Args:
        parts: the names of folders (and of the file, where it counts) on the way to each item.
        strict: see ``choose``.
        levels: indices to try, -1 for the last; by default all from the left.

    Items without a split have no place in the result, unless no level has splits: then all items have None. A level
    below the first has to divide half of the items.
    """
    deepest = max(map(len, parts.values()), default=0)
    for level in range(deepest) if levels is None else levels:
        at = {item: own[level] for item, own in parts.items() if -len(own) <= level < len(own)}
        chosen = choose(set(at.values()), strict)
        divided: dict[K, Split | None] = {item: chosen[name] for item, name in at.items() if name in chosen}
        if divided and (level == 0 or 2 * len(divided) >= len(parts)):
            rest = {item: own for item, own in parts.items() if item in divided}
            return Division(divided, level, chosen, _ignored(rest, divided))
    undivided: dict[K, Split | None] = dict.fromkeys(parts)
    return Division(undivided, ignored=_ignored(parts, undivided))


def _ignored(parts: Mapping[K, Sequence[str]], splits: Mapping[K, Split | None]) -> tuple[str, ...]:
    """Names that look like splits, beside other names, and tell another split than their items have."""
    told: dict[tuple[int, str], bool] = {}  # whether some item with this name at this level has another split
    for item, own in parts.items():
        for level, name in enumerate(own):
            kind = kind_of(name)
            differs = kind is not None and splits[item] != ("train" if kind == "train" else "holdout")
            told[level, name] = told.get((level, name), False) or differs
    kinds: dict[int, set[Kind | None]] = {}
    for level, name in told:
        kinds.setdefault(level, set()).add(kind_of(name))
    looks = {
        name
        for (level, name), differs in told.items()
        if differs and len(kinds[level]) > 1 and (len(kinds[level] - {None}) > 1 or not _remainder(name))
    }
    return tuple(sorted(looks))
