"""NATv2 under hard limits: a constant-size archive, a surrogate, an inner search, and a supernet that adapts.

Source: Sarti, Lomurno, Falanti, Matteucci, "Enhancing Once-For-All: A Study on Parallel Blocks, Skip Connections and
Early Exits" and "Neural Architecture Transfer 2" (2023); limits as constraint-domination instead of penalties.
"""

from __future__ import annotations

import numpy as np

from hwnas.spaces.base import IntArray, unique_rows
from hwnas.strategies.archive import Member, accuracy_of, encodings_of, front, objectives_of, stack_costs
from hwnas.strategies.distribution import GeneDistribution, Mixture, Sampler
from hwnas.strategies.inner_search import inner_search
from hwnas.strategies.loop import ArchiveStrategy
from hwnas.strategies.problem import FloatArray, View
from hwnas.strategies.sampling import draw_for_views, shares
from hwnas.strategies.sorting import IndexArray, merge_in_turns, survival
from hwnas.strategies.subset_selection import select_candidates
from hwnas.strategies.surrogate import AccuracySurrogate


class NatV2(ArchiveStrategy):
    """Per iteration: surrogate -> inner search -> subset -> evaluate -> survival -> adapt -> evaluate the archive again.

    The first members are ``initial * oversample`` architectures, drawn almost uniformly in depth, that keep the limits
    up to 10 %; with the smallest and the largest one, survival reduces them to ``archive``, and that size stays. With
    several targets one archive is shared: every target has its own inner search, its share of the candidates and of the
    survivors, and the supernet adapts to an equal mixture.
    """

    name = "natv2"
    one_hot = False

    def _initial(self) -> IntArray:
        ends = np.vstack([self.problem.smallest(), self.problem.largest()])
        wanted = max(0, self.section.initial * self.section.oversample - len(ends))
        drawn = draw_for_views(self.problem, self.rng, wanted, {row.tobytes() for row in ends})
        return unique_rows(np.vstack([drawn, ends]))

    def _survive(self) -> None:
        members = self.present(self.archive.active)
        self.archive.keep(self._survivors(members, self.section.archive, ends=not self._reference))

    def _survivors(self, members: list[Member], count: int, *, ends: bool = False) -> IndexArray:
        """Return the positions of ``count`` survivors, each view choosing in turn; at first both ends of the space stay."""
        views = self.problem.views
        orders = []
        for view, share in zip(views, shares(count, len(views)), strict=True):
            F, G = objectives_of(members, view)
            orders.append(np.concatenate([survival(F, G, share), survival(F, G, count)]))
        if ends:
            keys = [self.problem.smallest().tobytes(), self.problem.largest().tobytes()]
            first = [position for position, member in enumerate(members) if member.key in keys]
            orders = [np.concatenate([first, order]).astype(np.int64) for order in orders]
        return merge_in_turns(orders, count)

    def _candidates(self) -> tuple[IntArray, FloatArray | None, FloatArray | None]:
        training = self._training()
        surrogate = AccuracySurrogate(
            self.problem.space.lower,
            self.problem.space.upper,
            one_hot=self.one_hot,
            seed=int(self.rng.integers(2**31 - 1)),
        ).fit(encodings_of(training), accuracy_of(training))
        chosen = np.empty((0, self.problem.space.n_genes), dtype=np.int64)
        views = self.problem.views
        for view, share in zip(views, shares(self.section.candidates, len(views), self.iteration), strict=True):
            if share:
                taken = self.archive.keys | {row.tobytes() for row in chosen}
                chosen = np.vstack([chosen, self._search_view(view, surrogate, taken, share)])
        chosen = self._fill_up(chosen)
        if not len(chosen):
            return chosen, None, None
        return chosen, *surrogate.predict(chosen)

    def _training(self) -> list[Member]:
        """Return what the surrogate learns from: comparable accuracies, or all with what adaptation changed estimated."""
        if self.section.reevaluate == "all":
            return self.archive.current(self.version)
        return self.present(self.archive.members)

    def _search_view(self, view: View, surrogate: AccuracySurrogate, known: set[bytes], count: int) -> IntArray:
        best = front(self.present(self.archive.active), view)
        found = inner_search(
            self.problem,
            view,
            lambda X: surrogate.predict(X)[0],
            seeds=encodings_of(best),
            known=known,
            population=self.section.inner_population,
            generations=self.section.inner_generations,
            rng=self.rng,
        )
        front_costs = stack_costs(best).F[:, list(view.costs)] if best else np.empty((0, len(view.costs)))
        return found.X[select_candidates(found.F, found.G, front_costs, count)]

    def sampler(self) -> Sampler | None:
        """Return the gene frequencies of the best feasible members, an equal mixture over targets."""
        if not self._adaptation_due:
            return None
        return Mixture([self._distribution(view) for view in self.problem.views])

    def _distribution(self, view: View) -> GeneDistribution:
        members = self.present(self.archive.active)
        F, G = objectives_of(members, view)
        feasible = np.flatnonzero((G <= 0.0).all(axis=1))
        rows = feasible if len(feasible) else np.arange(len(members))
        best = rows[survival(F[rows], G[rows], self.section.adapt_top)]
        return GeneDistribution(self.problem.space, encodings_of([members[i] for i in best]))
