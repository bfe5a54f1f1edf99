"""Downsampling, view transform and normalisation: by hand, and as properties of any clips."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from crrl.data.clips import FloatArray, IntArray
from crrl.data.preprocessing import Preprocessing, Preprocessor, absent_joints, downsample, view_transform
from crrl.errors import CrrlError
from crrl.facts import build

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

Array = npt.NDArray[np.float64]

BASE, SPINE, LEFT, RIGHT = VIEW = (0, 1, 2, 3)
# Spine base, spine, left and right shoulder, a hand, a foot: metres from a sensor.
BODY = np.array([[0, 0, 0], [0, 0.5, 0.1], [0.2, 0.5, 0], [-0.2, 0.5, 0], [0.5, 0.1, 0.4], [0.1, -0.8, -0.1]])
BODY += (0.3, 0.2, 2.5)

SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=4)
ANY_CLIP = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda shape: (*shape, 3)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
NORMALIZATIONS = ["clip-axis", "clip"]


def offsets_of(lengths: list[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def bodies(lengths: list[int], seed: int, absent: float = 0.0) -> tuple[FloatArray, IntArray]:
    """Clips of a jittering body whose joints go missing with probability `absent`, but never in a clip's last frame."""
    rng = np.random.default_rng(seed)
    offsets = offsets_of(lengths)
    frames = BODY + rng.normal(0, 0.03, (offsets[-1], *BODY.shape))
    missing = rng.random(frames.shape[:2]) < absent
    missing[offsets[1:] - 1] = False
    frames[missing] = 0
    return frames.astype(np.float32), offsets


def split(frames: FloatArray, offsets: IntArray) -> list[FloatArray]:
    return [frames[start:end] for start, end in pairwise(offsets)]


def random_rotation(rng: np.random.Generator) -> Array:
    """Uniform over all rotations, [3, 3]."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.sign(np.linalg.det(q)))


def moved(frames: FloatArray, offsets: IntArray, seed: int) -> FloatArray:
    """Each clip turned about an axis of its own and shifted by up to 3 m; absent joints stay absent."""
    rng = np.random.default_rng(seed)
    parts = []
    for clip in split(frames, offsets):
        rotated = clip @ random_rotation(rng).T + rng.uniform(-3, 3, 3)
        parts.append(np.where(absent_joints(clip)[:, :, None], 0, rotated))
    return np.concatenate(parts).astype(np.float32)


def distances(frames: FloatArray) -> Array:
    """Between all pairs of joints of each frame, [F, J, J]."""
    return np.asarray(np.linalg.norm(frames[:, :, None].astype(float) - frames[:, None], axis=-1))


def normalised(clip: npt.ArrayLike, **steps: object) -> FloatArray:
    """One clip [T, J, 3] after preprocessing without downsampling, by default."""
    frames = np.asarray(clip, np.float32)
    preprocessing = replace(Preprocessing(max_frames=len(frames)), **steps)  # type: ignore[arg-type]
    return Preprocessor(preprocessing, frames.shape[1]).apply(frames, offsets_of([len(frames)]))[0]


# Downsampling


def kept_frames(length: int, max_frames: int) -> list[int]:
    """The frame numbers that a clip of `length` frames keeps."""
    numbers = np.broadcast_to(np.arange(length, dtype=np.float32)[:, None, None], (length, 1, 3))
    frames, offsets = downsample(numbers, offsets_of([length]), max_frames)
    assert offsets.tolist() == [0, len(frames)]
    return [int(number) for number in frames[:, 0, 0]]


@pytest.mark.parametrize(
    ("length", "max_frames", "expected"),
    [(9, 5, [0, 2, 4, 6, 8]), (5, 3, [0, 2, 4]), (7, 2, [0, 6]), (6, 5, [0, 1, 3, 4, 5]), (7, 1, [0])],
)
def test_downsampling_keeps_these_frames(length: int, max_frames: int, expected: list[int]) -> None:
    assert kept_frames(length, max_frames) == expected


@given(length=st.integers(3, 400), max_frames=st.integers(2, 100))
def test_a_long_clip_keeps_max_frames_from_its_first_to_its_last(length: int, max_frames: int) -> None:
    kept = kept_frames(length + max_frames, max_frames)
    assert (len(kept), kept[0], kept[-1]) == (max_frames, 0, length + max_frames - 1)


@given(length=st.integers(2, 400), max_frames=st.integers(3, 100))
def test_frames_are_kept_in_order_and_evenly_spaced(length: int, max_frames: int) -> None:
    gaps = np.diff(kept_frames(length + max_frames, max_frames))
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@given(length=st.integers(1, 60), spare=st.integers(0, 10))
def test_a_clip_that_is_short_enough_stays_untouched(length: int, spare: int) -> None:
    assert kept_frames(length, length + spare) == list(range(length))


@given(lengths=LENGTHS, max_frames=st.integers(1, 30), seed=SEEDS)
def test_downsampling_treats_each_clip_as_if_it_were_alone(lengths: list[int], max_frames: int, seed: int) -> None:
    frames, offsets = bodies(lengths, seed)
    together = split(*downsample(frames, offsets, max_frames))
    for clip, result in zip(split(frames, offsets), together, strict=True):
        alone, _ = downsample(clip, offsets_of([len(clip)]), max_frames)
        np.testing.assert_array_equal(result, alone)


def test_fewer_than_one_frame_is_refused() -> None:
    with pytest.raises(CrrlError, match="max_frames is 0: it must be from 1 to"):
        Preprocessing(max_frames=0)


# View transform


def test_view_transform_by_hand() -> None:
    # Shoulders along the sensor's z, spine along its y: X = z, Y = y, Z = X × Y = -x.
    clip = np.array([[[1, 2, 3], [1, 3, 3], [1, 3, 4], [1, 3, 2], [0, 2, 3]]], np.float32)
    expected = [[[0, 0, 0], [0, 1, 0], [1, 1, 0], [-1, 1, 0], [0, 0, 1]]]
    np.testing.assert_array_equal(view_transform(clip, offsets_of([1]), VIEW), expected)


@given(lengths=LENGTHS, seed=SEEDS)
def test_the_first_frame_looks_along_the_bodys_own_axes(lengths: list[int], seed: int) -> None:
    frames, offsets = bodies(lengths, seed)
    first = view_transform(moved(frames, offsets, seed), offsets, VIEW)[offsets[:-1]]
    shoulders, spine = first[:, LEFT] - first[:, RIGHT], first[:, SPINE] - first[:, BASE]
    # Coordinates up to 8 m are rounded by 5e-7 m before they come here.
    np.testing.assert_array_equal(first[:, BASE], 0)
    np.testing.assert_allclose(shoulders[:, 1:], 0, atol=2e-6)
    np.testing.assert_allclose(spine[:, 2], 0, atol=2e-6)
    assert (shoulders[:, 0] > 0).all()
    assert (spine[:, 1] > 0).all()


@given(lengths=LENGTHS, seed=SEEDS)
def test_the_view_transform_preserves_distances_in_every_frame(lengths: list[int], seed: int) -> None:
    frames, offsets = bodies(lengths, seed)
    np.testing.assert_allclose(distances(view_transform(frames, offsets, VIEW)), distances(frames), atol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@given(lengths=LENGTHS, seed=SEEDS, max_frames=st.integers(1, 30))
@settings(max_examples=40)
def test_preprocessing_does_not_see_where_the_sensor_stood(
    normalization: str, lengths: list[int], seed: int, max_frames: int
) -> None:
    frames, offsets = bodies(lengths, seed, absent=0.2 if max_frames > 1 else 0)
    preprocessor = Preprocessor(Preprocessing(max_frames, VIEW, normalization), len(BODY))  # type: ignore[arg-type]
    result, _ = preprocessor.apply(frames, offsets)
    of_moved, _ = preprocessor.apply(moved(frames, offsets, seed), offsets)
    # The input's rounding (5e-7 m at 8 m) turns a shoulder line of over 0.2 m by up to 5e-6 rad, so a joint 1.3 m away
    # moves by under 1e-5 m; normalisation divides that by half an axis' range, over 0.15 m.
    np.testing.assert_allclose(of_moved, result, atol=1e-4)


@pytest.mark.parametrize("missing", VIEW)
def test_a_first_frame_that_lacks_a_view_joint_is_skipped(missing: int) -> None:
    frames, _ = bodies([4], seed=1)
    frames[0, missing] = 0
    turned = view_transform(frames, offsets_of([4]), VIEW)
    np.testing.assert_array_equal(turned[1:], view_transform(frames[1:], offsets_of([3]), VIEW))


def test_a_skipped_frame_is_turned_with_the_rest() -> None:
    frames, offsets = bodies([4], seed=1)
    whole = view_transform(frames[1:], offsets_of([3]), VIEW)
    frames[0] = frames[2]
    frames[0, SPINE] = 0
    present = [joint for joint in range(len(BODY)) if joint != SPINE]
    np.testing.assert_array_equal(view_transform(frames, offsets, VIEW)[0, present], whole[1, present])


@pytest.mark.parametrize(
    ("joint", "place"),
    [
        pytest.param(SPINE, (0, 0, 0), id="absent spine"),
        pytest.param(LEFT, (0, 2, 2), id="shoulders in one place"),
        pytest.param(SPINE, (3, 0, 2), id="spine along the shoulder line"),
    ],
)
def test_a_clip_without_a_usable_frame_stays_as_it_is(joint: int, place: tuple[int, int, int]) -> None:
    frames = np.array([[[1, 0, 2], [1, 1, 2], [2, 2, 2], [0, 2, 2]]] * 3, np.float32)
    frames[:, joint] = place
    np.testing.assert_array_equal(view_transform(frames, offsets_of([3]), VIEW), frames)


def test_a_clip_without_a_usable_frame_does_not_borrow_the_next_clips_axes() -> None:
    frames, offsets = bodies([2, 3], seed=2)
    frames[:2, LEFT] = 0
    turned = view_transform(frames, offsets, VIEW)
    np.testing.assert_array_equal(turned[:2], frames[:2])
    np.testing.assert_array_equal(turned[2, BASE], 0)


def test_the_spine_base_that_became_the_origin_still_counts_for_the_range() -> None:
    # In body axes x runs over [-1, 1], y over [0, 2]: the base, at (0, 0, 0), is the lowest joint, not absent.
    clip = [[[5, 5, 5], [5, 6, 5], [6, 7, 5], [4, 7, 5]]]
    np.testing.assert_array_equal(normalised(clip, view_joints=VIEW), [[[0, -1, 0], [0, 0, 0], [1, 1, 0], [-1, 1, 0]]])


@pytest.mark.parametrize("joints", [(0, 1, 2, 6), (-1, 1, 2, 3)])
def test_view_joints_that_do_not_exist_are_refused(joints: tuple[int, int, int, int]) -> None:
    with pytest.raises(CrrlError, match="do not fit skeletons of 6 joints"):
        Preprocessor(Preprocessing(view_joints=joints), len(BODY))


# Normalisation


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("clip-axis", [[[-1, -1, 0], [1, 0, 0], [0, 1, 0]]]),
        ("clip", [[[-0.5, -1, 0], [0.5, 0, 0], [0, 1, 0]]]),
    ],
)
def test_normalisation_by_hand(normalization: str, expected: npt.ArrayLike) -> None:
    clip = [[[1, 2, 5], [3, 4, 5], [2, 6, 5]]]
    np.testing.assert_array_equal(normalised(clip, normalization=normalization), expected)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@given(clip=ANY_CLIP)
@example(np.array([[[3.4028235e38, 1e-45, 1], [-3.4028235e38, -1e-45, 1.0000001]]], np.float32))
def test_coordinates_lie_within_minus_one_and_one(normalization: str, clip: FloatArray) -> None:
    assert np.abs(normalised(clip, normalization=normalization)).max() <= 1


@given(clip=ANY_CLIP)
def test_every_axis_of_a_clip_reaches_both_ends_or_is_constant_and_0(clip: FloatArray) -> None:
    present = ~absent_joints(clip)
    before, after = clip[present], normalised(clip)[present]
    for axis in range(3 if present.any() else 0):
        constant = before[:, axis].min() == before[:, axis].max()
        ends = (after[:, axis].min(), after[:, axis].max())
        assert ends == ((0, 0) if constant else (-1, 1))


@given(seed=SEEDS, length=st.integers(1, 9))
def test_one_scale_per_clip_keeps_the_aspect_ratio(seed: int, length: int) -> None:
    frames, _ = bodies([length], seed)
    before, after = np.ptp(frames, axis=(0, 1)), np.ptp(normalised(frames, normalization="clip"), axis=(0, 1))
    np.testing.assert_allclose(after, 2 * before / before.max(), rtol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@given(seed=SEEDS, power=st.integers(-8, 8), shift=st.tuples(*[st.floats(-4, 4)] * 3))
def test_normalisation_does_not_see_scale_and_place(
    normalization: str, seed: int, power: int, shift: tuple[float, float, float]
) -> None:
    frames, _ = bodies([5], seed)
    other = ((frames + np.array(shift)) * 2.0**power).astype(np.float32)
    # Coordinates up to 8 m are rounded by 5e-7 m, against half a range of over 0.15 m.
    np.testing.assert_allclose(
        normalised(other, normalization=normalization), normalised(frames, normalization=normalization), atol=2e-5
    )


@pytest.mark.parametrize("view", [None, VIEW])
@given(seed=SEEDS)
@settings(max_examples=30)
def test_absent_joints_stay_zero(view: tuple[int, int, int, int] | None, seed: int) -> None:
    frames, offsets = bodies([6, 3], seed, absent=0.3)
    result, _ = Preprocessor(Preprocessing(view_joints=view), len(BODY)).apply(frames, offsets)
    np.testing.assert_array_equal(result[absent_joints(frames)], 0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_absent_joints_do_not_count_for_the_range(normalization: str) -> None:
    frames, _ = bodies([4], seed=3)
    with_absent = np.concatenate([frames, np.zeros((4, 2, 3), np.float32)], axis=1)
    np.testing.assert_array_equal(
        normalised(with_absent, normalization=normalization)[:, : len(BODY)],
        normalised(frames, normalization=normalization),
    )


def test_a_clip_of_absent_joints_alone_stays_zero() -> None:
    np.testing.assert_array_equal(normalised(np.zeros((2, 3, 3))), 0)


# All steps


@given(lengths=LENGTHS, seed=SEEDS, max_frames=st.integers(1, 30), view=st.sampled_from([None, VIEW]))
@settings(max_examples=40)
def test_every_clip_is_prepared_as_if_it_were_alone(
    lengths: list[int], seed: int, max_frames: int, view: tuple[int, int, int, int] | None
) -> None:
    frames, offsets = bodies(lengths, seed, absent=0.2)
    preprocessor = Preprocessor(Preprocessing(max_frames, view), len(BODY))
    together = split(*preprocessor.apply(frames, offsets))
    for clip, result in zip(split(frames, offsets), together, strict=True):
        alone, _ = preprocessor.apply(clip, offsets_of([len(clip)]))
        np.testing.assert_array_equal(result, alone)


@pytest.mark.parametrize(
    "preprocessor",
    [
        Preprocessor(Preprocessing(), 20),
        Preprocessor(Preprocessing(50, (0, 1, 4, 8), "clip"), 25),
    ],
    ids=["defaults", "view"],
)
def test_a_preprocessor_survives_json(preprocessor: Preprocessor) -> None:
    assert build(Preprocessor, json.loads(json.dumps(preprocessor.to_dict()))) == preprocessor


def test_another_joint_count_is_refused() -> None:
    frames, offsets = bodies([2], seed=0)
    with pytest.raises(CrrlError, match="have 6 joints, but the encoder was trained on 5"):
        Preprocessor(Preprocessing(), 5).apply(frames, offsets)
