"""A new device's latencies from those of known devices and a few measurements: Gaussian-process regression in weight space.

The logarithm of a latency is a level, plus a multiple of the known devices' mean, plus what tells them apart, plus a little of
the physical features, plus noise. The first two are free (universal kriging, Matheron 1969), the others have Gaussian
priors, so the known devices' own covariance says how devices differ. Prior variances are not chosen: every pair of a grid
is weighted by its restricted likelihood (Patterson and Thompson 1971). Measurements that fit badly count less, as under a
Student distribution with four degrees of freedom (Lange, Little and Taylor 1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.latency.statistics import MAD_SCALE, FloatArray

FEWEST = 5
"""Fewest measured networks that tell level, slope and noise apart."""

_FEATURE_VARIANCES = (0.001, 0.01, 0.03, 0.1, 0.3)
_NOISE_VARIANCES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_DEGREES = 4.0
_REWEIGHTINGS = 4
_FREE = 2


@dataclass(frozen=True)
class Scaling:
    """Centre and scale of columns over a sample of the space; columns that do not vary are scaled to nothing."""

    centre: FloatArray
    scale: FloatArray

    @classmethod
    def of(cls, columns: FloatArray) -> Scaling:
        """Return the scaling of ``columns [n, c]``."""
        spread = columns.std(axis=0)
        varies = spread > 1e-9 * (1.0 + np.abs(columns.mean(axis=0)))
        return cls(columns.mean(axis=0), np.divide(1.0, spread, out=np.zeros_like(spread), where=varies))

    def __call__(self, columns: FloatArray) -> FloatArray:
        """Return standardised columns, ``[n, c]``."""
        return np.asarray((columns - self.centre) * self.scale, dtype=np.float64)


@dataclass(frozen=True)
class Posterior:
    """One pair of prior variances: its likelihood and what follows from it.

    Attributes:
        log_likelihood: The restricted one, up to a constant.
        mean: Posterior mean of the weights, ``[2 + sources + features]``.
        covariance: Their posterior covariance.
        noise: Variance of the noise.
        left_out: Residuals, each network predicted from the others, ``[n]``.
        left_out_variance: Their predicted variances, ``[n]``.
    """

    log_likelihood: float
    mean: FloatArray
    covariance: FloatArray
    noise: float
    left_out: FloatArray
    left_out_variance: FloatArray


@dataclass(frozen=True)
class Kriging:
    """The fitted regression.

    Attributes:
        sources: Scaling of the known devices' log latencies.
        features: Scaling of the physical features.
        mean: Posterior mean of the weights, ``[2 + sources + features]``.
        covariance: Their posterior covariance.
        noise: Variance of the noise of a log latency.
        left_out: Log residuals of the measured networks, each predicted from the others, ``[n]``.
        left_out_spread: Their predicted standard deviations, ``[n]``.
    """

    sources: Scaling
    features: Scaling
    mean: FloatArray
    covariance: FloatArray
    noise: float
    left_out: FloatArray
    left_out_spread: FloatArray

    @classmethod
    def fit(cls, sources: Scaling, features: Scaling, S: FloatArray, G: FloatArray, y: FloatArray) -> Kriging:
        """Fit on measured networks.

        Args:
            sources: Scaling over a sample of the space.
            features: Likewise.
            S: Log latencies on the known devices, ``[n, sources]``.
            G: Physical features, ``[n, features]``.
            y: Measured log latencies, ``[n]``.

        Raises:
            ValueError: Fewer than :data:`FEWEST` networks.
        """
        if len(y) < FEWEST:
            raise ValueError(f"{len(y)} measured networks, at least {FEWEST} are needed")
        Z, n_sources = design(sources(S), features(G)), S.shape[1]
        counts = np.ones(len(y))
        for _ in range(_REWEIGHTINGS):
            posteriors = [
                posterior(Z, n_sources, y, g, v, counts) for g in _FEATURE_VARIANCES for v in _NOISE_VARIANCES
            ]
            likelihood = np.array([posterior.log_likelihood for posterior in posteriors])
            shares = np.exp(likelihood - likelihood.max())
            shares /= shares.sum()
            left_out = _mix(shares, [posterior.left_out for posterior in posteriors])
            scale = MAD_SCALE * float(np.median(np.abs(left_out))) + 1e-9
            fitted_with, counts = counts, np.minimum((_DEGREES + 1) / (_DEGREES + (left_out / scale) ** 2), 1.0)
        noise = float(_mix(shares, [np.array(posterior.noise) for posterior in posteriors]))
        variance = _mix(shares, [posterior.left_out_variance for posterior in posteriors])
        # A network that counts less has more noise in its variance; the interval is that of an ordinary one.
        variance = np.maximum(variance - noise * (1.0 / fitted_with - 1.0), noise)
        return cls(
            sources=sources,
            features=features,
            mean=_mix(shares, [posterior.mean for posterior in posteriors]),
            covariance=_mix(shares, [posterior.covariance for posterior in posteriors]),
            noise=noise,
            left_out=left_out,
            left_out_spread=np.sqrt(variance),
        )

    def predict(self, S: FloatArray, G: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return log latencies and their predicted standard deviations, both ``[n]``, of ``S`` and ``G`` as for :meth:`fit`."""
        Z = design(self.sources(S), self.features(G))
        variance = np.einsum("ij,jk,ik->i", Z, self.covariance, Z) + self.noise
        return Z @ self.mean, np.sqrt(np.maximum(variance, 0.0))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for :meth:`from_dict`; the left-out residuals are not kept."""
        scalings = {"sources": self.sources, "features": self.features}
        return {
            **{name: {"centre": s.centre.tolist(), "scale": s.scale.tolist()} for name, s in scalings.items()},
            "mean": self.mean.tolist(),
            "covariance": self.covariance.tolist(),
            "noise": self.noise,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Kriging:
        """Read what :meth:`as_dict` returned."""

        def scaling(name: str) -> Scaling:
            return Scaling(np.asarray(raw[name]["centre"], dtype=float), np.asarray(raw[name]["scale"], dtype=float))

        mean = np.asarray(raw["mean"], dtype=np.float64)
        covariance = np.asarray(raw["covariance"], dtype=np.float64).reshape(len(mean), len(mean))
        return cls(scaling("sources"), scaling("features"), mean, covariance, float(raw["noise"]), *np.zeros((2, 0)))


def design(S: FloatArray, G: FloatArray) -> FloatArray:
    """Return ``[n, 2 + sources + features]``: one, the devices' mean, their deviations from it, the features."""
    mean = S.mean(axis=1, keepdims=True)
    deviations = (S - mean) / np.sqrt(S.shape[1])
    return np.concatenate([np.ones((len(S), 1)), mean, deviations, G / np.sqrt(max(G.shape[1], 1))], axis=1)


def posterior(
    Z: FloatArray, n_sources: int, y: FloatArray, feature_variance: float, noise: float, counts: FloatArray
) -> Posterior:
    """Return what follows from one pair of prior variances.

    Args:
        Z: :func:`design` of the measured networks, ``[n, 2 + sources + features]``.
        n_sources: Number of known devices.
        y: Measured log latencies, ``[n]``.
        feature_variance: Prior variance of a feature's weight; a device's is 1, level and slope are free.
        noise: Variance of the noise beside those.
        counts: How much each network counts, ``[n]``, at most 1.
    """
    free, rest = Z[:, :_FREE], Z[:, _FREE:]
    prior = np.concatenate([np.ones(n_sources), np.full(rest.shape[1] - n_sources, feature_variance)])
    inverse = np.linalg.inv((rest * prior) @ rest.T + noise * np.diag(1.0 / counts))
    normal = free.T @ inverse @ free
    projected = inverse - inverse @ free @ np.linalg.solve(normal, free.T @ inverse)
    residual = projected @ y
    freedom = len(y) - _FREE
    variance = max(float(y @ residual) / freedom, 1e-12)
    likelihood = freedom * np.log(variance) - np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(normal)[1]
    precision = (Z * counts[:, None]).T @ Z / noise + np.diag(np.concatenate([np.zeros(_FREE), 1.0 / prior]))
    covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    diagonal = np.diag(projected)
    return Posterior(
        log_likelihood=-0.5 * float(likelihood),
        mean=covariance @ ((Z * counts[:, None]).T @ y) / noise,
        covariance=variance * covariance,
        noise=variance * noise,
        left_out=residual / diagonal,
        left_out_variance=variance / diagonal,
    )


def _mix(shares: FloatArray, values: list[FloatArray]) -> FloatArray:
    return np.asarray(np.tensordot(shares, np.stack(values), axes=1), dtype=np.float64)
