"""Which column of a table is what: as the user names them, else recognised by names and values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bequest.core.errors import DataError, nearest
from bequest.core.task import Modality
from bequest.data.assemble import PARTS
from bequest.data.formats import Table
from bequest.data.images import SUFFIXES
from bequest.data.messages import listed

_TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "review",
    "body",
    "message",
    "texts",
    "sentences",
    "comment",
    "document",
)
_IMAGE_NAMES = (
    "image",
    "file",
    "path",
    "filename",
    "image_path",
    "file_name",
    "filepath",
    "file_path",
    "image_file",
    "img",
    "images",
)
_LABEL_NAMES = ("label", "class", "category", "target", "sentiment", "labels", "classes", "intent", "topic")
_PROMPT_NAMES = ("prompt", "instruction", "question")
_COMPLETION_NAMES = ("completion", "response", "answer")
_SPLIT_NAMES = ("split",)
_MOST_NAMED = 50


@dataclass(frozen=True)
class Columns:
    """The columns that the user names; None for those to recognise.

    Attributes:
        text: Of texts.
        image: Of paths of image files.
        label: Of labels; several, with commas between or in a list, are one class or target each.
        split: Of given parts.
        group: Of groups; there are none if it is not named.
    """

    text: str | None = None
    image: str | None = None
    label: str | Sequence[str] | None = None
    split: str | None = None
    group: str | None = None

    @property
    def flags(self) -> dict[str, str]:
        """The flag and the value of each column that is named."""
        return {f"--{role}-column": _shown(value) for role, value in vars(self).items() if value is not None}


@dataclass
class Roles:
    """What the columns of one table are, as positions.

    Attributes:
        labels: Of labels, one or more once recognised.
        text: Of texts; this or `image` is there once recognised.
        image: Of images.
        split: Of given parts, if any.
        group: Of groups, if any.
    """

    labels: tuple[int, ...] = ()
    text: int | None = None
    image: int | None = None
    split: int | None = None
    group: int | None = None

    @property
    def taken(self) -> list[int]:
        """All columns that have a role."""
        single = [i for i in (self.text, self.image, self.split, self.group) if i is not None]
        return [*self.labels, *single]


def recognise(table: Table, columns: Columns) -> tuple[Roles, list[str]]:
    """What each column is, and what to tell of those that the user did not name.

    Raises:
        DataError: A column is not there, is named for two purposes, or cannot be told from others.
    """
    if len(table.columns) == 1:
        raise DataError(
            f"{table.place} has one column, {table.columns[0][:60]!r}; expected a column of texts and one of labels, "
            "divided by commas, semicolons or tabs. Add the labels, or correct the delimiter; for a language "
            "model, which needs none: --task causal-lm."
        )
    roles = _named_roles(table, columns)
    notes = _recognise_split(table, roles) if columns.split is None else []
    if columns.split is not None:
        _check_parts(table, roles)
    if columns.text is None and columns.image is None:
        _recognise_input(table, roles)
    _recognise_rest(table, roles)
    if columns.label is None or (columns.text is None and columns.image is None):
        notes.append(_note(table, roles))
    return roles, notes


def input_column(table: Table, modality: Modality, name: str | None) -> tuple[int, tuple[str, ...]]:
    """The position of the column of inputs in a table whose labels do not matter, and a note where it is a guess.

    Args:
        table: The table.
        modality: `text` or `image`.
        name: As the user names it; None to recognise it.

    Raises:
        DataError: There is no such column, or none can be told from others.
    """
    option = f"--{modality}-column"
    if name is not None:
        fault = _fault(table, name, option)
        if fault:
            raise DataError(fault)
        return _position(table, name), ()
    known = _IMAGE_NAMES if modality == "image" else (*_TEXT_NAMES, *_PROMPT_NAMES)
    others = {*_LABEL_NAMES, *_SPLIT_NAMES}
    rest = [i for i, column in enumerate(table.columns) if column.lower() not in others]
    found = rest[0] if len(rest) == 1 else _named(table, known, ())
    if found is None:
        raise DataError(
            f"Cannot tell which column of {table.place} holds the {modality}s; there are: "
            f"{_columns(table)}. Expected a name such as {known[0]}. Name it: {option} NAME."
        )
    name = table.columns[found]
    guess = name.lower() not in known
    return found, (f"Took {modality}s from the column {name!r} of {table.place}.",) if guess else ()


def recognise_texts(table: Table, columns: Columns) -> tuple[Roles, list[str]]:
    """As `recognise`, where texts have no labels.

    `text` is the column of texts, or of prompts, and `labels` then holds that of completions.

    Raises:
        DataError: A column is not there, is named for two purposes or for one that such data have not, or cannot be
            told from others.
    """
    unused = [flag for flag in ("--image-column", "--group-column") if flag in columns.flags]
    if unused:
        raise DataError(f"{', '.join(unused)} given, but --task causal-lm reads texts alone. Leave it out.")
    roles = _named_roles(table, columns)
    if len(roles.labels) > 1:
        raise DataError("--label-column names several columns; expected one, of completions. Name one.")
    notes = _recognise_split(table, roles) if columns.split is None else []
    if columns.split is not None:
        _check_parts(table, roles)
    if columns.text is None:
        _recognise_prompts(table, roles)
    if roles.text is None:
        raise DataError(
            f"Cannot tell which column of {table.place} holds the texts; there are: "
            f"{_columns(table)}. Expected text, or prompt and completion. Name it: --text-column "
            "NAME, and where it holds prompts, that of completions: --label-column NAME."
        )
    text, labels = table.columns[roles.text], [table.columns[i] for i in roles.labels]
    told = f"prompts from the column {text!r} and completions from {labels[0]!r}" if labels else f"texts from {text!r}"
    return roles, [*notes, f"Took {told}."]


def _recognise_prompts(table: Table, roles: Roles) -> None:
    prompt, completion = _named(table, _PROMPT_NAMES, roles.taken), _named(table, _COMPLETION_NAMES, roles.taken)
    if roles.labels:
        roles.text = prompt
    elif prompt is not None and completion is not None:
        roles.text, roles.labels = prompt, (completion,)
    else:
        rest = [i for i in range(len(table.columns)) if i not in roles.taken]
        roles.text = rest[0] if len(rest) == 1 else _named(table, _TEXT_NAMES, roles.taken)


def _named_roles(table: Table, columns: Columns) -> Roles:
    if columns.text is not None and columns.image is not None:
        raise DataError("--text-column and --image-column are both given; expected one, the input. Leave one out.")
    labels = _label_names(table, columns.label)
    given = {role: name for role, name in vars(columns).items() if name is not None and role != "label"}
    faults = [
        fault
        for option, name in [*(("label", name) for name in labels), *given.items()]
        if (fault := _fault(table, name, f"--{option}-column"))
    ]
    if faults:
        raise DataError("\n".join(faults))
    roles = Roles(
        tuple(_position(table, name) for name in labels),
        **{role: _position(table, name) for role, name in given.items()},
    )
    if len(set(roles.taken)) < len(roles.taken):
        named = [f"{flag} {value}" for flag, value in columns.flags.items()]
        raise DataError(
            f"One column of {table.place} is named for two purposes: {listed(named)}. Expected different columns."
        )
    return roles


def _label_names(table: Table, label: str | Sequence[str] | None) -> Sequence[str]:
    if label is None:
        return ()
    if not isinstance(label, str):
        return label
    if label.strip() in table.columns or "," not in label:
        return (label,)
    return [name for name in label.split(",") if name.strip()]


def _fault(table: Table, name: str, option: str) -> str:
    """Why there is not exactly one column of that name; empty where there is."""
    found = table.columns.count(name.strip())
    if not found:
        return (
            f"{option}: {table.place} has no column {name.strip()!r}; expected one of its columns. "
            f"{nearest(name, table.columns)}"
        )
    if found > 1:
        return f"{option}: {table.place} has {found} columns {name.strip()!r}; expected one. Rename the others."
    return ""


def _position(table: Table, name: str) -> int:
    return table.columns.index(name.strip())


def _is_part(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in PARTS


def _check_parts(table: Table, roles: Roles) -> None:
    assert roles.split is not None
    if table.parts:
        raise DataError(
            f"--split-column is given, but the parts of {table.place} are given by files or splits already; expected "
            "one of the two. Leave it out."
        )
    cells = zip(table.values[roles.split], table.places, strict=True)
    faults = [f"{value!r} in {place}" for value, place in cells if not _is_part(value)]
    if faults:
        raise DataError(
            f"--split-column: the column {table.columns[roles.split]!r} of {table.place} holds "
            f"{listed(faults)}; expected {', '.join(PARTS)}. Correct them, or name another column."
        )


def _recognise_split(table: Table, roles: Roles) -> list[str]:
    column = _named(table, _SPLIT_NAMES, roles.taken)
    if column is None or table.parts:
        return []
    if all(_is_part(value) for value in table.values[column]):
        roles.split = column
        return [f"Took given parts from the column {table.columns[column]!r}."]
    return [f"The column {table.columns[column]!r} is not used: not all of its values are {', '.join(PARTS)}."]


def _recognise_input(table: Table, roles: Roles) -> None:
    image, text = _image_column(table, roles), _named(table, _TEXT_NAMES, roles.taken)
    if image is not None and text is not None:
        raise DataError(
            f"{table.place} has images in the column {table.columns[image]!r} and texts in {table.columns[text]!r}; "
            f"expected one input. Name it: --image-column {table.columns[image]} or --text-column "
            f"{table.columns[text]}."
        )
    roles.image, roles.text = image, text


def _image_column(table: Table, roles: Roles) -> int | None:
    whole = [i for i, name in enumerate(table.columns) if name in table.images and i not in roles.taken]
    if len(whole) == 1:
        return whole[0]
    column = _named(table, _IMAGE_NAMES, roles.taken)
    if column is None or table.columns[column] in table.images:
        return column
    return column if all(_is_image_path(value) for value in table.values[column]) else None


def _is_image_path(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower().endswith(tuple(SUFFIXES))


def _recognise_rest(table: Table, roles: Roles) -> None:
    """Adds the columns of inputs and labels that are not known yet."""
    if not roles.labels:
        label = _named(table, _LABEL_NAMES, roles.taken)
        roles.labels = () if label is None else (label,)
    rest = [i for i in range(len(table.columns)) if i not in roles.taken and table.columns[i] not in table.images]
    missing = _missing(roles)
    if len(missing) == len(rest) == 1 and _is_pair(table, roles):
        _assign(roles, missing[0], rest[0])
    elif len(missing) == len(rest) == 2:
        _recognise_by_values(table, roles, rest)
    if _missing(roles):
        _refuse(table, _missing(roles))


def _note(table: Table, roles: Roles) -> str:
    inputs, column = ("texts", roles.text) if roles.image is None else ("images", roles.image)
    assert column is not None
    labels = listed([repr(table.columns[i]) for i in roles.labels])
    return f"Took {inputs} from the column {table.columns[column]!r} and labels from {labels}."


def _missing(roles: Roles) -> list[str]:
    is_missing = {"text": roles.text is None and roles.image is None, "label": not roles.labels}
    return [role for role, missing in is_missing.items() if missing]


def _is_pair(table: Table, roles: Roles) -> bool:
    return len(table.columns) - sum(i is not None for i in (roles.split, roles.group)) == 2


def _assign(roles: Roles, role: str, column: int) -> None:
    if role == "text":
        roles.text = column
    else:
        roles.labels = (column,)


def _refuse(table: Table, missing: Sequence[str]) -> NoReturn:
    raise DataError(
        f"Cannot tell which column of {table.place} holds the "
        f"{' and which the '.join(f'{m}s' for m in missing)}; there are: "
        f"{_columns(table)}. Expected names such as text and label. Name them: "
        + " ".join(f"--{role}-column NAME" for role in missing)
        + (" (or --image-column NAME)" if "text" in missing else "")
        + "."
        + (" For texts without labels: --task causal-lm." if "label" in missing else "")
    )


def _columns(table: Table) -> str:
    return listed(
        [repr(name[:60]) for name in table.columns[:_MOST_NAMED]] + [""] * (len(table.columns) - _MOST_NAMED),
        _MOST_NAMED,
    )


def _named(table: Table, names: Sequence[str], taken: Iterable[int]) -> int | None:
    """The free column with the first of the names that any column has, in any case."""
    free = {name.lower(): i for i, name in reversed([*enumerate(table.columns)]) if i not in set(taken)}
    return next((free[name] for name in names if name in free), None)


def _recognise_by_values(table: Table, roles: Roles, pair: Sequence[int]) -> None:
    """Of two columns, the one of few different values is the label; adds nothing where neither is."""
    different = {i: {hash(str(value)) for value in table.values[i]} for i in pair}
    label, text = sorted(pair, key=lambda i: len(different[i]))
    few, many = len(different[label]), len(different[text])
    if few == many or few > len(table) / 2:
        return
    if hash(table.columns[label]) in different[label]:
        raise DataError(
            f"The first line of {table.place} looks like a sample, not like column names: "
            f"{listed([repr(name[:60]) for name in table.columns])}. Expected a line of names, such as "
            "text,label. Add it."
        )
    roles.text, roles.labels = text, (label,)


def _shown(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)
