"""A small training job whose driver, tasks and actors log.

`ray job submit --working-dir jobs -- python training_with_logs.py`

It fits a line to noisy points by gradient descent, on two actors that share the data, and evaluates in tasks.
"""

import logging

import numpy as np
import ray

import ringlog

SERVICE = "training"
STEPS = 20


def logger(part: str) -> logging.Logger:
    """A logger that writes to the pipeline of this cluster; in every process once."""
    found = logging.getLogger(part)
    if not found.handlers:
        found.addHandler(ringlog.LogHandler(SERVICE))
        found.setLevel(logging.INFO)
    return found


class Trainer:
    """Holds a part of the data and gives the gradient of its loss."""

    def __init__(self, rank: int) -> None:
        draw = np.random.default_rng(rank)
        self.rank = rank
        self.x = draw.normal(size=500)
        self.y = 3.0 * self.x + 1.0 + draw.normal(scale=0.1, size=500)
        self.log = logger("trainer")

    def gradient(self, weights: np.ndarray, step: int) -> np.ndarray:
        """The gradient at ``weights``; logged with its loss."""
        error = weights[0] * self.x + weights[1] - self.y
        loss = float((error**2).mean())
        self.log.info("step %d loss %.4f", step, loss, extra={"rank": self.rank, "step": step, "loss": loss})
        return np.array([2 * (error * self.x).mean(), 2 * error.mean()])

    def finish(self) -> None:
        """Everything logged so far is acknowledged when this returns."""
        for handler in self.log.handlers:
            handler.flush()


def evaluate(weights: np.ndarray) -> float:
    """The error of ``weights`` against the line that made the data."""
    log = logger("evaluate")
    distance = float(np.abs(weights - np.array([3.0, 1.0])).max())
    log.log(
        logging.WARNING if distance > 0.1 else logging.INFO, "distance %.4f", distance, extra={"distance": distance}
    )
    for handler in log.handlers:
        handler.flush()
    return distance


def main() -> None:
    """Train, evaluate, and show what was logged."""
    ray.init(ignore_reinit_error=True)
    log = logger("driver")
    trainers = [ray.remote(Trainer).options(num_cpus=0).remote(rank) for rank in range(2)]
    weights = np.zeros(2)
    for step in range(STEPS):
        gradients = ray.get([trainer.gradient.remote(weights, step) for trainer in trainers])
        weights = weights - 0.2 * np.mean(gradients, axis=0)
    distance = ray.get(ray.remote(evaluate).options(num_cpus=0).remote(weights))
    log.info("trained: %s", weights.round(3).tolist(), extra={"distance": distance})
    ray.get([trainer.finish.remote() for trainer in trainers])
    log.handlers[0].flush()
    print(
        ringlog.sql(
            f"SELECT scope, severity_text, count(*) FROM logs WHERE service = '{SERVICE}' GROUP BY ALL ORDER BY ALL"
        )
    )


if __name__ == "__main__":
    main()
