"""Distillation at work: what teachers make of the samples and views that a student is trained on.

A teacher is frozen, so it runs once on each sample and view, into the store: under its own weights, its own
preprocessing, and the view. The view is drawn from the sample's content and its number alone, so teacher and student
see the same crop, each at its own size. Any training stage then minimises its own loss and that against the teacher.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bequest.core.distillation import Distillation, SoftLoss
from bequest.core.errors import DataError, MethodError, SourceError
from bequest.core.plan import Train
from bequest.core.task import IntArray, Samples, Task
from bequest.data.samples import Chosen, Joined, hashes_of
from bequest.engine.context import Context, Indices
from bequest.engine.feature_teaching import layer_tap
from bequest.engine.features import Frozen, frozen_module, frozen_outputs
from bequest.engine.store import Records
from bequest.engine.token_teaching import check_teacher, learns_tokens
from bequest.engine.views import view
from bequest.nn import losses
from bequest.nn.network import Network, fingerprint
from bequest.nn.taps import Tap, embedding_tap, read_taps
from bequest.sources.source import Source

_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Teaching:
    """Who teaches, what, and on which samples.

    Attributes:
        settings: What the student learns.
        teachers: Frozen networks with heads that tell the task's classes apart; of several, the mean of their soft
            targets is learned from.
        transfer: Samples without labels that the student is trained on too; None for none.
    """

    settings: Distillation
    teachers: tuple[Source, ...]
    transfer: Samples | None = None
    _extended: dict[str, Task] = field(default_factory=dict[str, Task], repr=False, compare=False)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Of each teacher, its network."""
        return tuple(teacher.network() for teacher in self.teachers)

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """Of each teacher, a digest of its weights, head included."""
        return tuple(fingerprint(network) for network in self.networks)

    def at(self, temperature: float) -> Teaching:
        """The same teachers, which are loaded once, at another temperature."""
        made = replace(self, settings=replace(self.settings, temperature=temperature))
        loaded = {"networks": self.networks, "fingerprints": self.fingerprints}
        vars(made).update(loaded)
        return made

    def describe(self) -> dict[str, Any]:
        """Plain data, for records: what else could change what a student learns."""
        return {
            "teachers": {t.name: digest for t, digest in zip(self.teachers, self.fingerprints, strict=True)},
            "preprocessing": [t.preprocess.fingerprint for t in self.teachers],
            "transfer": None if self.transfer is None else _digest(self.transfer),
        }

    def check(self, task: Task, student: Source) -> None:
        """Raise what is wrong with the teachers, or the samples without labels, for a task and a student.

        Raises:
            MethodError: The task is no classification, or unlabelled samples have nothing to be trained on.
            SourceError: A teacher takes other samples, has no head, or tells other classes apart; or there is no layer
                as it is named.
            DataError: The samples without labels are of another kind, or all among the task's.
        """
        if task.kind == "causal-lm":
            self._check_language(student)
            return
        if task.kind != "classification":
            raise MethodError(
                f"Distillation is for classification and language models, but {task.name!r} is a task of kind "
                f"{task.kind}. Train without --teacher."
            )
        for teacher, network in zip(self.teachers, self.networks, strict=True):
            _check_teacher(teacher, network, task)
        if self.settings.feature_weight:
            layer_tap(student, self.settings.student_layer, task, "--student-layer")
            for teacher in self.teachers:
                layer_tap(teacher, self.settings.teacher_layer, task, "--teacher-layer")
        if self.transfer is None:
            return
        if not self.settings.soft_weight and not self.settings.feature_weight:
            raise MethodError(
                "--unlabelled is given, but --soft-weight is 0: samples without labels have nothing to be trained on. "
                "Give a weight above 0, or leave --unlabelled out."
            )
        if self.transfer.modality != task.modality:
            raise DataError(
                f"The unlabelled samples are of kind {self.transfer.modality!r}, but {task.name!r} holds "
                f"{task.modality!r}. Give --unlabelled samples of the same kind."
            )
        if not len(_new(self.transfer, task)):
            raise DataError(
                "All unlabelled samples are among the task's own; expected others. Leave --unlabelled out, or give "
                "samples that the task does not hold."
            )

    def _check_language(self, student: Source) -> None:
        if len(self.teachers) > 1 or self.transfer is not None:
            given = "several teachers" if len(self.teachers) > 1 else "--unlabelled"
            raise MethodError(f"A language model learns from one teacher and its texts, but there are {given}.")
        for teacher, network in zip(self.teachers, self.networks, strict=True):
            check_teacher(teacher, network, student, self.settings)

    def extend(self, task: Task) -> Task:
        """The task with the unlabelled samples after its own, label −1; those that are its own are left out."""
        if self.transfer is None:
            return task
        if task.fingerprint not in self._extended:
            new = _new(self.transfer, task)
            samples = Joined((task.samples, Chosen(self.transfer, new)))
            labels = np.concatenate([task.labels, np.full(len(new), -1, task.labels.dtype)])
            self._extended[task.fingerprint] = replace(task, samples=samples, labels=labels)
        return self._extended[task.fingerprint]


def _new(transfer: Samples, task: Task) -> IntArray:
    """Positions of the samples that are not the task's, test part included, each content once."""
    known = {row.tobytes() for row in task.hashes}
    found: dict[bytes, int] = {}
    for i, row in enumerate(hashes_of(transfer)):
        if row.tobytes() not in known:
            found.setdefault(row.tobytes(), i)
    return np.fromiter(found.values(), np.int64, len(found))


def _digest(samples: Samples) -> str:
    return hashlib.blake2b(np.ascontiguousarray(hashes_of(samples)).data, digest_size=8).hexdigest()


def _check_teacher(teacher: Source, network: Network, task: Task) -> None:
    if teacher.modality != task.modality:
        raise SourceError(
            f"The teacher {teacher.name!r} takes samples of kind {teacher.modality!r}, but {task.name!r} holds "
            f"{task.modality!r}. Choose a teacher for {task.modality}."
        )
    if isinstance(network.head, nn.Identity) or teacher.head_kind != "classification":
        what = "has no head" if teacher.head_kind == "classification" else f"was trained for {teacher.head_kind}"
        raise SourceError(
            f"The teacher {teacher.name!r} {what}; expected a network that tells {task.name!r}'s classes apart. Adapt "
            "it first (`bequest adapt DATA --source …`), and name that run as --teacher."
        )
    if teacher.classes:
        lacking = [c for c in task.classes if c not in teacher.classes]
        others = [c for c in teacher.classes if c not in task.classes]
        if lacking or others:
            told = [f"the task has {_names(lacking)}, which the teacher does not know"] if lacking else []
            told += [f"the teacher has {_names(others)}, which the task does not know"] if others else []
            raise SourceError(
                f"The classes of the teacher {teacher.name!r} are not those of {task.name!r}: {'; '.join(told)}. "
                "Expected the same names. Adapt the teacher to these data first."
            )
    elif (found := _num_outputs(network.head)) not in (None, len(task.classes)):
        raise SourceError(
            f"The head of the teacher {teacher.name!r} has {found} outputs, but {task.name!r} has "
            f"{len(task.classes)} classes; expected as many. Adapt the teacher to these data first."
        )


def _names(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return ", ".join(map(repr, classes[:5])) + more


def _num_outputs(head: nn.Module) -> int | None:
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    return linear[-1].out_features if linear else None


def with_transfer(context: Context, train: IntArray) -> tuple[Context, IntArray]:
    """The run, and what a stage is trained on, with the samples that have no labels."""
    if context.teaching is None or context.teaching.transfer is None:
        return context, train
    task = context.teaching.extend(context.task)
    return replace(context, task=task), np.concatenate([train, np.arange(len(context.task.labels), len(task.labels))])


@dataclass(frozen=True)
class Lesson:
    """What the teachers make of a batch.

    Attributes:
        logits: To learn from (batch, classes), in the task's order of classes.
        features: Of all teachers, side by side (batch, widths); None where none are learned from.
    """

    logits: Tensor
    features: Tensor | None = None

    @classmethod
    def joined(cls, lessons: Sequence[Lesson]) -> Lesson:
        """Those of a batch's parts as that of the batch."""
        features = [lesson.features for lesson in lessons if lesson.features is not None]
        return cls(torch.cat([lesson.logits for lesson in lessons]), torch.cat(features) if features else None)

    def each(self, change: Callable[[Tensor], Tensor]) -> Lesson:
        """The lesson with its tensors changed."""
        return Lesson(change(self.logits), None if self.features is None else change(self.features))


@dataclass(frozen=True)
class SoftTargets(Sequence[tuple[Any, ...]]):
    """What the teachers make of some samples in one view: an item a sample, one part a teacher.

    Attributes:
        parts: Of each teacher, what it made, or what it is to be run on.
        read: Of each teacher, from some of its items to its lesson.
        temperature: ρ, at which several teachers' soft targets are averaged.
        width: Of all teachers' features, side by side; 0 where none are learned from.
        seconds: What computing them took, whenever and wherever that was.
    """

    parts: tuple[Sequence[Any], ...]
    read: tuple[Callable[[Sequence[Any]], Lesson], ...]
    temperature: float
    width: int = 0
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: Any) -> Any:
        return tuple(part[index] for part in self.parts)

    def lesson(self, items: Sequence[tuple[Any, ...]]) -> Lesson:
        """Of a batch of items, of this view or another one, what to learn from."""
        teachers = [read(own) for read, own in zip(self.read, zip(*items, strict=True), strict=True)]
        logits = losses.mean_soft_targets([teacher.logits for teacher in teachers], self.temperature)
        features = [teacher.features for teacher in teachers if teacher.features is not None]
        return Lesson(logits, torch.cat(features, 1) if features else None)


@dataclass(frozen=True)
class _Beside(Sequence[tuple[Any, ...]]):
    """Records of the same samples, side by side."""

    columns: Sequence[Records]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: Any) -> Any:
        return tuple(column[index] for column in self.columns)


def soft_views(
    context: Context, stage: Train, indices: Indices, labels: Tensor, num_views: int | None, *, features: bool = False
) -> Callable[[int], SoftTargets | None]:
    """From a view's number to what the teachers make of it; to None without teachers. Says once what that spares.

    Args:
        context: The run.
        stage: Which is taught.
        indices: Samples of the task that it is trained on.
        labels: Of each.
        num_views: How many views there will be; where each epoch has its own, teachers run in every step.
        features: Whether the stage learns from the teachers' features too.
    """
    teaching = context.teaching
    if teaching is None or not (teaching.settings.soft_weight or features) or learns_tokens(context):
        return lambda _: None
    teachers = [_Teacher(context, teaching, i, features=features) for i in range(len(teaching.teachers))]
    indices = np.asarray(indices, dtype=np.int64)
    size = sum(teacher.num_bytes for teacher in teachers) * len(indices) * (num_views or 0)
    reason = _why_online(context, teaching, size, num_views)
    if reason:
        context.say(f"The teacher runs in every step: {reason}.")
    else:
        context.say(_saving(teaching, stage, len(indices), num_views or 0, size))

    return lambda number: _soft_view(teachers, indices, labels, number, online=bool(reason))


def teacher_logits(context: Context, indices: Indices) -> Tensor:
    """What a student learns from of some samples' plain view: the teachers' logits (samples, classes)."""
    teaching = context.teaching
    assert teaching is not None, "the run has teachers"
    teachers = [_Teacher(context, teaching, i) for i in range(len(teaching.teachers))]
    indices = np.asarray(indices, dtype=np.int64)
    made = _soft_view(teachers, indices, context.no_labels(indices), 0, online=teaching.settings.online)
    starts = range(0, len(made), context.batch_size)
    batches = [[made[i] for i in range(start, min(start + context.batch_size, len(made)))] for start in starts]
    return torch.cat([made.lesson(batch).logits.cpu() for batch in batches])


def teach_ahead(context: Context, trained: Sequence[IntArray], tested: IntArray) -> None:
    """Fill the store with what teachers make of what training and the leaderboard will ask for.

    Batches are those that training would form by itself, in its order. Where teachers run in every step, and for
    language models, nothing is done; the user is told.

    Args:
        context: The run; with workers, they compute it.
        trained: Of each seed, the samples of the task that students are trained on.
        tested: Those that teachers are scored on.
    """
    teaching, num_views = context.teaching, context.views.number
    assert teaching is not None, "the run has teachers"
    features = bool(teaching.settings.feature_weight)
    if not teaching.settings.soft_weight and not features:
        return
    if learns_tokens(context):
        context.say("What the teacher makes of tokens is computed as training asks for it, not ahead.")
        return
    for train in trained:
        own, part = with_transfer(context, train)
        teachers = [_Teacher(own, teaching, i, features=features) for i in range(len(teaching.teachers))]
        size = sum(teacher.num_bytes for teacher in teachers) * len(part) * (num_views or 0)
        if reason := _why_online(own, teaching, size, num_views):
            context.say(f"What the teacher makes is not computed ahead: {reason}.")
            return
        for number in range(num_views or 0):
            _soft_view(teachers, part, own.no_labels(part), number, online=False)
    teacher_logits(context, tested)


def _soft_view(
    teachers: Sequence[_Teacher], indices: IntArray, labels: Tensor, number: int, *, online: bool
) -> SoftTargets:
    seen = [view(teacher.context, indices, labels, number) for teacher in teachers]
    seconds = sum(made.items.seconds for made in seen if isinstance(made.items, Records))
    temperature, width = teachers[0].settings.temperature, sum(t.tap.width for t in teachers if t.tap)
    if online:
        return SoftTargets(tuple(v.items for v in seen), tuple(t.run for t in teachers), temperature, width, seconds)
    kept = [teacher.stored(made) for teacher, made in zip(teachers, seen, strict=True)]
    seconds += sum(max(records.seconds for records in columns) for columns in kept)
    return SoftTargets(tuple(map(_Beside, kept)), tuple(t.read for t in teachers), temperature, width, seconds)


def _why_online(context: Context, teaching: Teaching, size: int, num_views: int | None) -> str:
    """Why what teachers make, so many bytes in all, is not stored; empty where it is."""
    if teaching.settings.online:
        return "--online asks for it"
    if num_views is None:
        return "views are unlimited"
    persistent = all(teacher.preprocess.persistent for teacher in teaching.teachers)
    if not context.has_room(size, persistent=persistent):
        return "what it makes of all samples and views has no room in the store"
    return ""


def _saving(teaching: Teaching, stage: Train, num: int, num_views: int, size: int) -> str:
    who = "teacher runs" if len(teaching.teachers) == 1 else f"{len(teaching.teachers)} teachers run"
    views = "1 view" if num_views == 1 else f"{num_views:,} views"
    return (
        f"The {who} once on each of {num:,} samples in {views}, {num * num_views:,} forward passes where "
        f"{stage.epochs} epochs take {num * stage.epochs:,}: {size / 1e6:,.1f} MB on disk."
    )


class _Teacher:
    """One teacher at work on a run's samples."""

    def __init__(self, context: Context, teaching: Teaching, number: int, *, features: bool = False) -> None:
        source, self.network = teaching.teachers[number], teaching.networks[number]
        # Its own preprocessing, with the student's views.
        self.context = replace(context, source=source, taps=())
        self.settings, self.digest = teaching.settings, teaching.fingerprints[number]
        self.classes = context.task.classes
        order = [source.classes.index(name) for name in self.classes] if source.classes else range(len(self.classes))
        self.order = torch.tensor(list(order))
        self.top = self.settings.top_classes if self.settings.top_classes < len(self.classes) else 0
        layer = self.settings.teacher_layer
        self.tap = layer_tap(source, layer, context.task, "--teacher-layer") if features else None

    @property
    def num_bytes(self) -> int:
        """What is stored for one sample in one view takes."""
        logits = 6 * self.top + 2 if self.top else 2 * len(self.classes)
        return logits + (2 * self.tap.width if self.tap else 0)

    def stored(self, seen: Any) -> list[Records]:
        """Its outputs for a view, from the store."""
        key = {"what": "teacher", "network": self.digest}
        # The mass of the rest depends on the temperature.
        shared = {"top": self.top, **({"temperature": self.settings.temperature} if self.top else {})}
        keys = [{**key, **shared, "array": name} for name in (("logits", "classes") if self.top else ("logits",))]
        keys += [{**key, "array": "features", **self.tap.key}] if self.tap else []
        frozen = Frozen(
            tuple(keys),
            lambda chosen: _Kept(self.module, self.context.source.name, self.top, self.settings.temperature, chosen),
            (False,) * len(keys),
        )
        return frozen_outputs(self.context, frozen, seen.items, seen.hashes, seen.key)

    def read(self, items: Sequence[tuple[np.ndarray[Any, Any], ...]]) -> Lesson:
        """The lesson from stored outputs."""
        values, *others = (torch.from_numpy(np.stack(column)) for column in zip(*items, strict=True))
        logits, device = values.float(), self.context.runtime.device
        if self.top:
            logits = losses.from_top_classes(logits, others[0].long(), len(self.classes))
        features = others[-1].float().to(device) if self.tap else None
        return Lesson(logits[:, self.order].to(device), features)

    def run(self, items: Sequence[Any]) -> Lesson:
        """The lesson on encoded samples, computed now."""
        source = self.context.source
        inputs = self.context.runtime.inputs(source.preprocess.collate(items))
        with torch.no_grad():
            logits, *features = (_finite(output, source.name) for output in self.module(*inputs))
        return Lesson(logits[:, self.order.to(logits.device)], features[0] if features else None)

    @cached_property
    def module(self) -> _Outputs:
        body = frozen_module(self.context, self.network.body)
        head = copy.deepcopy(self.network.head).float().to(self.context.runtime.device)
        return _Outputs(body, head, self.tap).eval().requires_grad_(False)


class _Outputs(nn.Module):
    """Logits, and features where there is a tap: the body in the precision of frozen passes, the head in float32."""

    def __init__(self, body: nn.Module, head: nn.Module, tap: Tap | None) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.taps = (embedding_tap(0), *([tap] if tap else []))
        self.dtype = next((p.dtype for p in body.parameters()), torch.float32)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = tuple(t.to(self.dtype) if t.is_floating_point() else t for t in inputs)
        embedding, *features = (output.float() for output in read_taps(self.body, self.taps, given))
        return self.head(embedding).float(), *features


class _Kept(nn.Module):
    """What is stored of a teacher's outputs."""

    def __init__(self, outputs: _Outputs, name: str, top: int, temperature: float, chosen: Sequence[int]) -> None:
        super().__init__()
        self.outputs, self.name, self.top, self.temperature = outputs, name, top, temperature
        self.chosen = tuple(chosen)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = [_finite(output, self.name) for output in self.outputs(*inputs)]
        for what, output in zip(("logits", "features"), found, strict=False):
            if output.abs().max() > _LARGEST:
                raise SourceError(
                    f"The teacher {self.name!r} gives {what} up to {float(output.abs().max()):.3g}, beyond what is "
                    f"stored (float16, {_LARGEST:g}). Run it in every step instead: --online true."
                )
        logits, *features = found
        kept: tuple[Tensor, ...] = (logits.half(),)
        if self.top:
            values, classes = losses.top_classes(logits, self.top, self.temperature)
            kept = values.half(), classes.int()
        kept = *kept, *(feature.half() for feature in features)
        return tuple(kept[i] for i in self.chosen)


def _finite(output: Tensor, name: str) -> Tensor:
    bad = int((~torch.isfinite(output)).any(1).sum())
    if bad:
        raise SourceError(
            f"The teacher {name!r} gives outputs that are no finite numbers for {bad} of a batch of {len(output)} "
            "samples; expected numbers. Check its weights with `bequest predict`, or choose another teacher."
        )
    return output


def taught_loss(
    settings: Distillation,
    hard_loss: Callable[[Tensor, Tensor], Tensor],
    outputs: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
) -> Tensor:
    """α · the loss on the labels + β · the loss against the teacher, each a mean over all samples of the batch.

    Args:
        settings: Weights, temperature and kind.
        hard_loss: The stage's own.
        outputs: Of the student (batch, classes).
        labels: As in `View.labels`; samples without one have the second term alone.
        teacher: Logits to learn from (batch, classes); None where β is 0.
    """
    terms: list[Tensor] = []
    known = labels >= 0 if labels.ndim == 1 else torch.isfinite(labels).all(1)
    if settings.hard_weight and known.all():
        terms.append(settings.hard_weight * hard_loss(outputs, labels))
    elif settings.hard_weight and known.any():
        terms.append(settings.hard_weight * hard_loss(outputs[known], labels[known]) * known.float().mean())
    if teacher is not None:
        terms.append(settings.soft_weight * soft_loss(settings, outputs, labels, teacher, known))
    return torch.stack(terms).sum() if terms else 0.0 * outputs.sum()


def soft_loss(settings: Distillation, outputs: Tensor, labels: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
    """The loss against the teacher; arguments as for `taught_loss`, and which samples have labels.

    DKD's target is a sample's class, of a mixed one the class of the larger share, without a label the teacher's.
    """
    if settings.standardised:
        outputs, teacher = losses.standardised(outputs), losses.standardised(teacher)
    rho, scaled = settings.temperature, settings.scaled
    target = torch.where(known, labels if labels.ndim == 1 else labels.nan_to_num().argmax(1), teacher.argmax(1))
    kinds: dict[SoftLoss, Callable[[Tensor, Tensor], Tensor]] = {
        "soft-cross-entropy": partial(losses.soft_cross_entropy, temperature=rho, scaled=scaled),
        "kl": partial(losses.kl_divergence, temperature=rho, scaled=scaled),
        "softmax-l2": partial(losses.softmax_l2, temperature=rho, scaled=scaled),
        "logits-l2": losses.logits_l2,
        "dkd": partial(
            losses.decoupled, labels=target, temperature=rho, others_weight=settings.others_weight, scaled=scaled
        ),
        "dist": partial(losses.correlation, temperature=rho),
    }
    return kinds[settings.soft_loss](outputs, teacher)
