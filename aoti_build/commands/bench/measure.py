"""Takes the samples of one target for `bench`, in rounds of alternating order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from aoti_build.artifact.manifest import Manifest
from aoti_build.commands.bench.ways import name_of, wanted_samples
from aoti_build.errors import AotiBuildError, DirectoryError, Interrupted
from aoti_build.measurement.bench_samples import BenchSampler, Subject
from aoti_build.measurement.gate import Question, Rule, answers, noise_band, question
from aoti_build.measurement.record import Cache, ComparisonRecord, Metric, Row, Sample
from aoti_build.measurement.samples import PEERS
from aoti_build.measurement.statistics import MOST_PAIRS, PAIRS, Verdict
from aoti_build.measurement.turns import take_in_turns
from aoti_build.work.worker import OnTurn

BASE = "base"
_OUT_OF_BUDGET = "the budget ended before"
# A sample need not take exactly as long as the longest one before.
_MARGIN = 1.15


@dataclass
class TargetBench:
    """The samples of one target.

    `new` is the row of the artifact that is compared, and `base` the package of ``--against``. The
    base and the artifact are neighbours in each round. With `in_turns` they are sampled at the same
    time, with timed calls in turns; otherwise one after the other.
    Nothing is begun that would probably end after `deadline`, by `clock`.
    """

    sampler: BenchSampler
    manifest: Manifest
    rows: Sequence[Subject]
    new: Subject
    base: Subject | None
    samples: int
    deadline: float
    on_progress: Callable[[str], None]
    in_turns: bool = False
    clock: Callable[[], float] = time.monotonic
    taken: dict[str, list[Sample]] = field(default_factory=dict)
    # Why there is no sample of a subject, or no more of them.
    errors: dict[str, str] = field(default_factory=dict)
    # The errors of the artifact and of the base, without which nothing is compared.
    fatal: AotiBuildError | None = None
    _longest: dict[str, float] = field(default_factory=dict)

    def measure(self, rule: Rule) -> None:
        """Take all samples."""
        self.on_progress("inputs")
        self.sampler.make_calls()
        self._fill_caches()
        self._convert()
        self._run_rounds({subject.name: self._wanted(subject) for subject in self._subjects})
        if self.base is not None and self._is_undecided(rule):
            self._run_rounds({self.base.name: MOST_PAIRS, self.new.name: MOST_PAIRS})

    @property
    def has_figures(self) -> bool:
        """Whether any sample was taken of the artifact or of another way."""
        return any(self._of(subject) for subject in self.rows)

    def row_records(self) -> tuple[Row, ...]:
        """What was measured of each way."""
        return tuple(self._row(subject) for subject in self.rows)

    def questions(self, base_name: str) -> list[Question]:
        """The comparisons of the artifact with the base."""
        if self.base is None:
            return []
        old, new = self._of(self.base), self._of(self.new)
        found = [question(metric, base_name, old, new) for metric in (Metric.FIRST, Metric.MEMORY)]
        for sizes in self.sampler.points:
            found.append(question(Metric.STEADY, base_name, old, new, sizes))
        return found

    def way_comparisons(self, rule: Rule) -> list[ComparisonRecord]:
        """The comparisons of the artifact with the other ways: each with the artifact's row whose
        cache is in the same state."""
        questions = []
        for subject in self.rows:
            if subject is not self.new and not self._is_own(subject):
                questions += self._way_questions(subject)
        return answers(questions, Rule(rule.band))

    def host_band(self) -> float | None:
        """The smallest band that this host resolves for the calls of the artifact; None if there
        are too few samples."""
        subjects = [self.new] if self.base is None else [self.base, self.new]
        series = []
        for subject in subjects:
            series.append([sample.steady[0].p50 for sample in self._of(subject) if sample.steady])
        return noise_band(series)

    def base_samples(self) -> tuple[Sample, ...]:
        return () if self.base is None else tuple(self._of(self.base))

    @property
    def _subjects(self) -> list[Subject]:
        """All subjects in the order of the first round."""
        neighbours = [self.new] if self.base is None else [self.base, self.new]
        return [*neighbours, *(subject for subject in self.rows if subject is not self.new)]

    def _of(self, subject: Subject) -> list[Sample]:
        return self.taken.get(subject.name, [])

    def _is_own(self, subject: Subject) -> bool:
        """Whether a row is one of the artifact that is compared."""
        return subject.way == self.new.way

    def _row(self, subject: Subject) -> Row:
        return Row(
            way=subject.way,
            cache=subject.cache,
            samples=tuple(self._of(subject)),
            error=self.errors.get(subject.name),
        )

    def _way_questions(self, subject: Subject) -> list[Question]:
        """The comparisons with one row of another way."""
        is_empty = subject.cache == Cache.EMPTY
        name = name_of(self.new.way, Cache.EMPTY) if is_empty else self.new.name
        old, new = self._of(subject), self.taken.get(name, [])
        found = [question(Metric.FIRST, subject.name, old, new)]
        if is_empty:
            return found
        # What a way imports may be a part of the load of another: a service that loads an artifact
        # imports the type of its output then.
        found.append(question(Metric.IMPORT, subject.name, old, new))
        found.append(question(Metric.MEMORY, subject.name, old, new))
        for sizes in self.sampler.points:
            found.append(question(Metric.STEADY, subject.name, old, new, sizes))
        return found

    def _wanted(self, subject: Subject) -> int:
        """How many samples a subject gets at first."""
        if self.base is not None and subject in (self.base, self.new):
            return PAIRS
        return wanted_samples(subject, self.samples)

    def _fill_caches(self) -> None:
        """Take the first sample of each row that wants empty caches. It fills the used ones."""
        for subject in self.rows:
            if subject.cache == Cache.EMPTY:
                self._take(subject)
        if self.base is not None:
            first = Subject(
                "base, empty cache",
                self.base.way,
                Cache.EMPTY,
                self.base.artifacts,
                self.base.caches,
            )
            self._take(first)

    def _convert(self) -> None:
        """Convert the model for other libraries. A conversion that fails ends their row."""
        for subject in self.rows:
            if subject.way in PEERS and self._is_affordable(subject):
                self.on_progress(f"converting for {subject.way}")
                self._attempt(subject, partial(self.sampler.convert, subject.way))

    def _run_rounds(self, wanted: dict[str, int]) -> None:
        """Take samples until each subject has as many as wanted: in each round the sample whose
        index is the round's number. Every second round goes in the opposite order.

        `pairs.Rounds` does so for a single time of each subject. Here a sample has many metrics,
        and slow ways have fewer samples than the others.
        """
        for number in range(max(wanted.values(), default=0)):
            order = [subject for subject in self._subjects if wanted.get(subject.name, 0) > number]
            if number % 2:
                order.reverse()
            lacking = [subject for subject in order if len(self._of(subject)) <= number]
            for group in self._groups(lacking):
                self._take(*group)

    def _groups(self, order: Sequence[Subject]) -> Iterator[tuple[Subject, ...]]:
        """The subjects in this order, with those together that are sampled in turns."""
        pair = tuple(subject for subject in order if subject in (self.base, self.new))
        for subject in order:
            if not self.in_turns or subject not in pair:
                yield (subject,)
            elif subject is pair[0]:
                yield pair

    def _take(self, *subjects: Subject) -> None:
        """Take one sample of each, in turns if there are several. Nothing is done if one failed
        before or the time is over."""
        names = [subject.name for subject in subjects]
        if self.fatal is not None or any(name in self.errors for name in names):
            return
        if not self._is_affordable(*subjects):
            self.errors.update(dict.fromkeys(names, _OUT_OF_BUDGET))
            return
        count = len(self._of(subjects[0])) + 1
        self.on_progress(f"{' and '.join(names)}, sample {count}")
        started = self.clock()
        takes: dict[str, Callable[[], Sample]] = {}
        if len(subjects) == 1:
            takes[names[0]] = partial(self._sample, subjects[0])
        else:
            in_turns = {subject.name: partial(self._sample, subject) for subject in subjects}
            for name, sample in take_in_turns(in_turns).items():
                takes[name] = sample.result
        for subject in subjects:
            self._attempt(subject, partial(self._keep, subject, takes[subject.name]))
        elapsed = (self.clock() - started) / len(subjects)
        for name in names:
            self._longest[name] = max(self._longest.get(name, 0.0), elapsed)

    def _sample(self, subject: Subject, on_turn: OnTurn | None = None) -> Sample:
        return self.sampler.take(subject, self.manifest, on_turn)

    def _keep(self, subject: Subject, take: Callable[[], Sample]) -> None:
        self.taken.setdefault(subject.name, []).append(take())

    def _attempt(self, subject: Subject, work: Callable[[], None]) -> None:
        """Do some work for a subject. An error ends its row, or everything for the artifact."""
        try:
            work()
        except (Interrupted, DirectoryError):
            # The user or the host is at fault, and not this way.
            raise
        except AotiBuildError as error:
            self.errors[subject.name] = one_line(error)
            if subject.way == self.new.way:
                self.fatal = error

    def _is_affordable(self, *subjects: Subject) -> bool:
        expected = sum(self._longest.get(subject.name, 0.0) for subject in subjects) * _MARGIN
        return self.clock() + expected < self.deadline

    def _is_undecided(self, rule: Rule) -> bool:
        """Whether a verdict that counts is unknown after the first pairs."""
        for record in answers(self.questions(BASE), rule):
            if rule.judges(record.metric) and record.verdict == Verdict.UNKNOWN:
                return True
        return False


def one_line(error: AotiBuildError) -> str:
    """The error in one line, with the first line of its cause."""
    first_of_cause = (error.cause or "").strip().splitlines()[:1]
    return ": ".join([error.message, *first_of_cause])
