"""Features of hidden states: pooled over the valid frames of each clip, then standardised."""

from __future__ import annotations

import torch

from crrl.models import FeatureExtractor
from tests.models.test_models import LENGTHS, clips, encoder


def test_the_mean_is_tap() -> None:
    model = encoder().eval()
    torch.testing.assert_close(FeatureExtractor(model)(clips(), LENGTHS), model.pooled(clips(), LENGTHS))


def test_moments_are_mean_and_deviation_of_both_layers_over_the_clips_own_frames() -> None:
    model, x = encoder().eval(), clips()
    features = FeatureExtractor(model, "tuned")(x, LENGTHS)
    lower = torch.nn.GRU(9, 8, bidirectional=True, batch_first=True)
    lower.load_state_dict({name: w for name, w in model.gru.state_dict().items() if "_l0" in name})
    for row, length in enumerate(LENGTHS.tolist()):
        clip = x[row : row + 1, :length]
        h = torch.cat([lower(clip)[0][0], model(clip, LENGTHS[row : row + 1])[0]], dim=1)
        torch.testing.assert_close(features[row], torch.cat([h.mean(0), h.std(0, correction=0)]), atol=1e-5, rtol=1e-4)


def test_features_are_shifted_and_scaled() -> None:
    model = FeatureExtractor(encoder().eval(), "tuned")
    plain = model(clips(), LENGTHS)
    model.center.fill_(0.5)
    model.scale.fill_(3)
    torch.testing.assert_close(model(clips(), LENGTHS), 3 * (plain - 0.5))


def test_what_is_fitted_lies_where_the_encoder_does() -> None:
    model = FeatureExtractor(encoder().eval().to("meta"), "tuned")
    assert {buffer.device.type for buffer in model.buffers()} == {"meta"}


def test_nuisances_leave_the_rest_and_of_themselves_what_their_length_says() -> None:
    model = FeatureExtractor(encoder().eval(), "tuned", nuisances=2)
    size = len(model.center)
    plain = model(clips(), LENGTHS)
    axes = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))[0]
    model.nuisances.copy_(axes[:, :2] * torch.tensor([1.0, 0.25]).sqrt())
    expected = plain @ axes * torch.cat([torch.tensor([0.0, 0.75]), torch.ones(size - 2)])
    torch.testing.assert_close(model(clips(), LENGTHS) @ axes, expected, atol=1e-5, rtol=1e-4)
