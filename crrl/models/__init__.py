"""The method, module by module, as in Section III of the paper."""

from crrl.models.contrast import ContrastiveMotionLearner
from crrl.models.features import FeatureExtractor, FeatureKind
from crrl.models.fusion import InformationFuser, Views
from crrl.models.layers import Encoder, MLPHead
from crrl.models.reconstruction import Decoder, SequenceReconstructor

__all__ = [
    "ContrastiveMotionLearner",
    "Decoder",
    "Encoder",
    "FeatureExtractor",
    "FeatureKind",
    "InformationFuser",
    "MLPHead",
    "SequenceReconstructor",
    "Views",
]
