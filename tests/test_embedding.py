"""An encoder file as a function from raw clips to vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import crrl
from crrl.data import Clips, Prepared, Preprocessing, Preprocessor
from crrl.models import Encoder, FeatureExtractor
from crrl.runs import load_encoder, save_encoder

HIDDEN, JOINTS = 8, 5
LENGTHS = [7, 1, 12, 3, 7]


def raw_clip(frames: int, joints: int = JOINTS) -> np.ndarray:
    """Metres from a sensor."""
    return np.random.default_rng(frames).normal((0, 0, 3), 0.5, (frames, joints, 3))


CLIPS = [raw_clip(frames) for frames in LENGTHS]


def saved(path: Path, features: FeatureExtractor, clips: list[np.ndarray], preprocessor: Preprocessor) -> Path:
    """The features' file, as training saves it."""
    made = Clips.from_arrays(clips, labels=[0] * len(clips), names=list(map(str, LENGTHS)), class_names=["any"])
    save_encoder(path, features, Prepared(made, preprocessor, "any"), "cml")
    return path


def of_two_bodies(folder: Path, clips: list[np.ndarray]) -> crrl.SkeletonEncoder:
    """An untrained encoder of clips [T, 2·J, 3]."""
    joints = clips[0].shape[1]
    features = FeatureExtractor(Encoder(3 * joints, HIDDEN))
    return crrl.load(
        saved(folder / "two.safetensors", features, clips, Preprocessor(Preprocessing(max_frames=10), joints))
    )


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    """An untrained encoder."""
    torch.manual_seed(0)
    preprocessor = Preprocessor(Preprocessing(max_frames=10, view_joints=(0, 1, 2, 3)), JOINTS)
    features = FeatureExtractor(Encoder(3 * JOINTS, HIDDEN))
    return saved(tmp_path / "encoder.safetensors", features, CLIPS, preprocessor)


@pytest.fixture
def standardised_file(encoder_file: Path, tmp_path: Path) -> Path:
    """The same encoder with other features: moments of both layers, shifted and scaled."""
    file = load_encoder(encoder_file)
    features = FeatureExtractor(file.features.encoder, "tuned")
    features.center.fill_(0.25)
    features.scale.fill_(2)
    return saved(tmp_path / "other.safetensors", features, CLIPS, file.preprocessor)


@pytest.fixture
def encoder(encoder_file: Path) -> crrl.SkeletonEncoder:
    return crrl.load(encoder_file)


def test_each_clip_gives_one_float32_vector(encoder: crrl.SkeletonEncoder) -> None:
    features = encoder.embed(CLIPS)
    assert features.shape == (len(CLIPS), 2 * HIDDEN)
    assert features.dtype == np.float32


def test_the_file_says_what_its_features_are(standardised_file: Path, encoder: crrl.SkeletonEncoder) -> None:
    features = crrl.load(standardised_file).embed(CLIPS)
    assert features.shape == (len(CLIPS), 8 * HIDDEN)
    np.testing.assert_allclose(features[:, 2 * HIDDEN : 4 * HIDDEN], 2 * (encoder.embed(CLIPS) - 0.25), atol=1e-6)


def test_a_clip_gives_the_same_vector_alone_and_among_others(encoder: crrl.SkeletonEncoder) -> None:
    alone = np.concatenate([encoder.embed([clip]) for clip in CLIPS])
    np.testing.assert_allclose(encoder.embed(CLIPS), alone, atol=1e-5)


def test_different_clips_give_different_vectors(encoder: crrl.SkeletonEncoder) -> None:
    a, b = encoder.embed([raw_clip(7), raw_clip(8)])
    assert np.abs(a - b).max() > 1e-3


def test_the_vectors_do_not_depend_on_where_the_sensor_stood(encoder: crrl.SkeletonEncoder) -> None:
    # The file's preprocessing has the view transform; a turn about the vertical axis and a step aside.
    turn = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    np.testing.assert_allclose(encoder.embed([CLIPS[0] @ turn.T + 1]), encoder.embed([CLIPS[0]]), atol=1e-4)


def test_embedding_twice_gives_the_same_so_dropout_is_off(encoder: crrl.SkeletonEncoder) -> None:
    np.testing.assert_array_equal(encoder.embed(CLIPS), encoder.embed(CLIPS))


def test_one_array_of_equally_long_clips_is_a_list_of_them(encoder: crrl.SkeletonEncoder) -> None:
    clips = np.stack([raw_clip(6), raw_clip(6) + 1])
    np.testing.assert_array_equal(encoder.embed(list(clips)), encoder.embed(clips))  # type: ignore[arg-type]


def test_a_run_folder_loads_as_the_file_in_it(encoder_file: Path, encoder: crrl.SkeletonEncoder) -> None:
    np.testing.assert_array_equal(crrl.load(str(encoder_file.parent)).embed(CLIPS), encoder.embed(CLIPS))


@pytest.mark.parametrize(
    ("clips", "problem"),
    [
        pytest.param([], "no clips given", id="no clips"),
        pytest.param(
            [raw_clip(4, joints=6)], "clip 0 has 6 joints, but the encoder was trained on 5", id="joint count"
        ),
        pytest.param([CLIPS[0], CLIPS[0] * np.nan], "clip 1 holds NaN", id="NaN"),
        pytest.param([CLIPS[0], CLIPS[0][:0]], "clip 1 is empty", id="empty clip"),
        pytest.param(CLIPS[0], r"clip 0 has shape \[5, 3\]", id="a clip instead of a list"),
    ],
)
def test_clips_that_cannot_be_embedded_are_refused(
    encoder: crrl.SkeletonEncoder, clips: list[np.ndarray], problem: str
) -> None:
    with pytest.raises(crrl.CrrlError, match=problem):
        encoder.embed(clips)


def test_an_encoder_of_two_known_bodies_takes_one_with_another_that_is_absent(tmp_path: Path) -> None:
    """Kinect's 25 joints, twice, as NTU RGB+D is trained on."""
    clips = [raw_clip(frames, joints=50) for frames in LENGTHS]
    encoder, alone = of_two_bodies(tmp_path, clips), [clip[:, :25] for clip in clips]
    with_nobody = [np.concatenate([clip, np.zeros_like(clip)], axis=1) for clip in alone]
    np.testing.assert_array_equal(encoder.embed(alone), encoder.embed(with_nobody))


def test_an_encoder_of_two_bodies_says_how_it_takes_one(tmp_path: Path) -> None:
    encoder = of_two_bodies(tmp_path, [np.concatenate([clip, clip + 1], axis=1) for clip in CLIPS])
    said = r"5 joints, but .* on 10, two bodies .*: pad .* np\.pad\(clip, "
    with pytest.raises(crrl.CrrlError, match=said) as caught:
        encoder.embed(CLIPS)
    alone = [eval(str(caught.value).partition("of zeros, ")[2], {"np": np, "clip": clip}) for clip in CLIPS]
    assert encoder.embed(alone).shape == (len(CLIPS), 2 * HIDDEN)


@pytest.mark.parametrize("kept", [0, 6, 200, -1], ids=["emptied", "in the size", "in the header", "last byte lost"])
def test_a_truncated_file_is_named_with_the_remedy(encoder_file: Path, kept: int) -> None:
    encoder_file.write_bytes(encoder_file.read_bytes()[:kept])
    with pytest.raises(crrl.CrrlError, match=f"{encoder_file} is damaged or cut short .*restore it or train again"):
        crrl.load(encoder_file)


@pytest.mark.parametrize(
    "facts",
    [None, {"format": "pt"}, {"crrl": '{"format": 1}'}],
    ids=["no facts", "another library's facts", "an earlier format"],
)
def test_a_file_of_another_library_is_named(tmp_path: Path, facts: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path, facts)
    with pytest.raises(crrl.CrrlError, match=f"{path} was not written by this version of crrl"):
        crrl.load(path)


@pytest.mark.parametrize("missing", ["none.safetensors", "."], ids=["file", "file in a folder"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(crrl.CrrlError, match=f"cannot read {tmp_path}.*safetensors"):
        crrl.load(tmp_path / missing)
