"""What features look like: the linear classifier's scores, a confusion matrix, and a t-SNE map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from crrl.evaluation.frozen import Features, linear_epochs


def linear_scores(train: Features, test: Features, classes: int) -> Tensor:
    """Logits [N, classes] of the test clips by the classifier of the linear protocol, after its last epoch."""
    *_, parameters = linear_epochs(train, classes, seed=0)
    return F.linear(test.features, *parameters)


def confusions(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int
) -> npt.NDArray[np.float64]:
    """How many clips of each class (a row) are classified as each class, [C, C]; labels, predicted: int64 [N]."""
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.float64)


def tsne(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """t-SNE of features [N, D]: float32 [N, 2]; reproducible on one machine.

    Raises:
        ImportError: scikit-learn, which is optional, is not installed.
    """
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(1.0, (len(features) - 1) / 3))
    model = TSNE(perplexity=perplexity, init="random" if len(features) < 3 else "pca", random_state=0)
    return np.asarray(model.fit_transform(features), np.float32)
