"""The stage that searches: the supernet's accuracies, the latency models' costs, the budgets as hard limits."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
from torch import nn

from hwnas import registry
from hwnas.progress import progress_bar
from hwnas.runs.budgets import problem_of
from hwnas.runs.session import Run
from hwnas.runs.training import trained_supernet
from hwnas.spaces.base import IntArray
from hwnas.strategies.base import FloatArray, Sampler, Strategy
from hwnas.strategies.confirming import Confirmation, Standing, read_confirmed
from hwnas.strategies.problem import Problem
from hwnas.strategies.runner import run_search
from hwnas.strategies.state import SearchResult
from hwnas.supernets.adaptation import adapt
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.evaluation import AccuracyEvaluator
from hwnas.zoo.starting import LOADED, read_start

PUPILS = 4
"""Networks that are compared with the teacher before each adaptation."""


def untaught(run: Run) -> bool:
    """Whether nothing has trained the supernet's classifiers yet: they started anew from an entry of the zoo."""
    folder = run.folder.supernet
    return not run.config.train.phases and (folder / LOADED).exists() and read_start(folder).fresh


class SearchWork:
    """What a strategy needs done: accuracies of the present supernet, its adaptation, its versions on the disk.

    Args:
        run: The run.
        supernet: Trained weights; adapted in place.
    """

    def __init__(self, run: Run, supernet: AnySupernet) -> None:
        section = run.config.search
        self._run = run
        self._supernet = supernet
        self._folder = run.folder.supernet / "adapted"
        self._version = 0
        self._teacher = None if untaught(run) else supernet.teacher(run.config.train.exit_ensemble)
        self._taught: float | None = None
        self._evaluator = self._reader(section.validation_images)
        self._reading: tuple[int, AccuracyEvaluator] | None = None

    def _reader(self, images: int | None) -> AccuracyEvaluator:
        run = self._run
        metric, bn_images = run.config.search.metric, run.config.train.bn_images
        return AccuracyEvaluator(self._supernet, run.data, metric, bn_images=bn_images, validation_images=images)

    def evaluate(self, X: IntArray) -> FloatArray:
        """Return the accuracies ``[n]`` of encodings ``[n, n_genes]``."""
        return self._evaluator.evaluate_encodings(X)

    def read(self, X: IntArray, images: int) -> FloatArray:
        """Return the accuracies ``[n]`` of encodings on so many validation images."""
        if self._reading is None or self._reading[0] != images:
            self._reading = (images, self._reader(images))
        return self._reading[1].evaluate_encodings(X)

    def _better_teacher(self, sampler: Sampler) -> nn.Module | None:
        """Return the largest network as training left it, or None once networks that ``sampler`` draws surpass it.

        Soft labels of a teacher that knows less than its pupils hold them back, and cost its forward pass.
        """
        if self._teacher is None:
            return None
        space, seed = self._run.space, self._run.config.search.seed
        if self._taught is None:
            network, resolution = copy.deepcopy(self._teacher).eval(), space.largest.resolution
            self._taught = self._evaluator.evaluate_network(
                self._evaluator.recalibrate(network, resolution), resolution
            )
        rng = np.random.default_rng([seed, self._version])
        pupils = space.repair(np.stack([sampler(rng) for _ in range(PUPILS)]))
        return self._teacher if float(np.mean(self.evaluate(pupils))) < self._taught else None

    def adapt(self, sampler: Sampler, epochs: float) -> None:
        """Train the supernet on architectures drawn from ``sampler``; the rate falls to zero over the search."""
        section = self._run.config.search
        teacher = self._better_teacher(sampler)
        share = min(1.0, self._version / max(1, section.iterations))
        adapt(
            self._supernet,
            self._run.data,
            sampler,
            epochs=epochs,
            learning_rate=section.adapt_learning_rate * 0.5 * (1.0 + float(np.cos(np.pi * share))),
            seed=section.seed + 1000 * (self._version + 1),
            batch_size=self._run.config.train.batch_size,
            teacher=teacher,
            subnets=section.adapt_subnets,
        )

    def save(self, version: int) -> None:
        """Keep the supernet as a version; only the two latest stay."""
        self._supernet.save(self._folder / f"v{version}", {"version": version})
        self._version = version
        shutil.rmtree(self._folder / f"v{version - 2}", ignore_errors=True)

    def load(self, version: int) -> None:
        """Bring a kept version back."""
        self._supernet.load(self._folder / f"v{version}")
        self._version = version


def search_stage(run: Run) -> SearchResult:
    """Search under the run's budgets, or go on where it stopped.

    Raises:
        BudgetError: No architecture can keep a budget.
        ConfigError: Unknown strategy.
        RunFolderError: The folder holds another search.
    """
    return drive_search(run, problem_of(run), trained_supernet(run), "searching")


def drive_search(run: Run, problem: Problem, supernet: AnySupernet, title: str) -> SearchResult:
    """Search a problem with the run's strategy in the run's folder, or go on where it stopped.

    Args:
        run: Sections of the search and of training, data, folder.
        problem: Space, costs and limits.
        supernet: Trained weights; adapted in place if the run file says so.
        title: What the bar shows.
    """
    section = run.config.search
    strategy = registry.load("strategy", section.strategy)(problem, section)
    work = SearchWork(run, supernet)
    adapts = section.adapt_epochs > 0
    deadline = None if section.time_budget_minutes is None else 60.0 * section.time_budget_minutes
    with progress_bar(title, 1.0) as advance:
        done = 0.0

        def report(share: float, note: str) -> None:
            nonlocal done
            advance(share - done, note)
            done = share

        result = run_search(
            strategy,
            problem,
            evaluate=work.evaluate,
            folder=run.folder.search,
            adapt=work.adapt if adapts else None,
            save_supernet=work.save if adapts else None,
            load_supernet=work.load if adapts else None,
            on_progress=report,
            deadline_s=deadline,
        )
    return _confirmed(run, problem, strategy, work, result)


def _confirmed(run: Run, problem: Problem, strategy: Strategy, work: SearchWork, result: SearchResult) -> SearchResult:
    """Return the result with its contenders read on all validation images, where the search read fewer."""
    section, every = run.config.search, len(run.data.validation)
    images = section.validation_images or every
    if not (section.confirm and result.finished and images < every):
        return result
    confirmation = Confirmation(
        problem, work.read, run.folder.search, version=result.version, every=every, spare=section.candidates
    )
    with progress_bar("confirming on all validation images", 1.0) as advance:
        standings = [Standing(member, images, error) for member, error in strategy.standing()]
        confirmation.run(standings, advance)
    # with those that were read before the search was given more iterations: what read_result tells of the folder
    members = read_confirmed(run.folder.search, result.archive.members, result.version)
    return replace(result, confirmed=tuple(members))


def searched_supernet(run: Run, result: SearchResult) -> AnySupernet:
    """Return the supernet that the result's accuracies belong to."""
    version = max((member.version for member in result.members), default=0)
    supernet = run.new_supernet()
    folder = run.folder.supernet / "adapted" / f"v{version}"
    supernet.load(folder if folder.is_dir() else run.folder.supernet)
    return supernet
